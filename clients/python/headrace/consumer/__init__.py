"""Consumer groups at the level of the wire, for what is built on them: trigger hosts and replication peers.

Applications use `headrace.AsyncClient.consume`, which reconnects and gives plain Python values.
"""

from headrace._async.consumer import AsyncConsumerSession as ConsumerSession
from headrace._async.consumer import Delivery

__all__ = ["ConsumerSession", "Delivery"]
