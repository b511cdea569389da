"""Triggers as the broker keeps them: definitions, code, counts and logs. Trigger hosts, clients, run them."""
