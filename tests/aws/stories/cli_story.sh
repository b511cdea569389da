#!/usr/bin/env bash
# The AWS CLI: a table from its definition to its end, as an operator types it.
set -euo pipefail
# No grep -q behind a pipe: it leaves before the writer is done, which then fails.
db() { aws dynamodb "$@" --output json; }

db create-table --table-name cli-music \
  --attribute-definitions AttributeName=artist,AttributeType=S AttributeName=song,AttributeType=S \
  --key-schema AttributeName=artist,KeyType=HASH AttributeName=song,KeyType=RANGE \
  --provisioned-throughput ReadCapacityUnits=100,WriteCapacityUnits=100 \
  --stream-specification StreamEnabled=true,StreamViewType=NEW_IMAGE >/dev/null
aws dynamodb wait table-exists --table-name cli-music
db put-item --table-name cli-music --item '{"artist": {"S": "Nina"}, "song": {"S": "Sinnerman"}, "year": {"N": "1965"}}'
db put-item --table-name cli-music --item '{"artist": {"S": "Nina"}, "song": {"S": "Feeling Good"}, "year": {"N": "1965"}}'
db update-item --table-name cli-music --key '{"artist": {"S": "Nina"}, "song": {"S": "Sinnerman"}}' \
  --update-expression 'SET minutes = :m' --expression-attribute-values '{":m": {"N": "10.5"}}' \
  --return-values UPDATED_NEW | grep '"10.5"' >/dev/null
db query --table-name cli-music --key-condition-expression 'artist = :a' \
  --expression-attribute-values '{":a": {"S": "Nina"}}' --query 'Items[].song.S' | tr -d ' \n' | grep -x '\["FeelingGood","Sinnerman"\]' >/dev/null
[ "$(db scan --table-name cli-music --page-size 1 --query 'length(Items)')" = 2 ]
if db put-item --table-name cli-music --item '{"artist": {"S": "Nina"}, "song": {"S": "Sinnerman"}}' \
  --condition-expression 'attribute_not_exists(artist)' 2>refusal; then exit 1; fi
grep -q ConditionalCheckFailedException refusal
[ "$(db execute-statement --statement "SELECT minutes FROM \"cli-music\" WHERE artist = 'Nina' AND song = ?" \
  --parameters '[{"S": "Sinnerman"}]' --query 'Items[0].minutes.N')" = '"10.5"' ]
stream=$(aws dynamodb describe-table --table-name cli-music --query Table.LatestStreamArn --output text)
shard=$(aws dynamodbstreams describe-stream --stream-arn "$stream" --query 'StreamDescription.Shards[0].ShardId' --output text)
iterator=$(aws dynamodbstreams get-shard-iterator --stream-arn "$stream" --shard-id "$shard" \
  --shard-iterator-type TRIM_HORIZON --query ShardIterator --output text)
[ "$(aws dynamodbstreams get-records --shard-iterator "$iterator" --query 'length(Records)' --output text)" = 3 ]
db delete-table --table-name cli-music >/dev/null
aws dynamodb wait table-not-exists --table-name cli-music
echo done
