// The JavaScript SDK: the client, the document client with its paginators, a waiter, and the client of streams.
import assert from "node:assert/strict";
import { CreateTableCommand, DeleteTableCommand, DynamoDBClient, waitUntilTableExists } from "@aws-sdk/client-dynamodb";
import {
  DescribeStreamCommand, DynamoDBStreamsClient, GetRecordsCommand, GetShardIteratorCommand, ListStreamsCommand,
} from "@aws-sdk/client-dynamodb-streams";
import {
  BatchGetCommand, BatchWriteCommand, DynamoDBDocumentClient, ExecuteStatementCommand, GetCommand, paginateQuery, PutCommand, ScanCommand,
  TransactWriteCommand, UpdateCommand,
} from "@aws-sdk/lib-dynamodb";

const TableName = "sdk-games";
const client = new DynamoDBClient({ region: process.env.AWS_DEFAULT_REGION });
const documents = DynamoDBDocumentClient.from(client);

await client.send(new CreateTableCommand({
  TableName,
  KeySchema: [{ AttributeName: "player", KeyType: "HASH" }, { AttributeName: "level", KeyType: "RANGE" }],
  AttributeDefinitions: [
    { AttributeName: "player", AttributeType: "S" }, { AttributeName: "level", AttributeType: "N" },
  ],
  BillingMode: "PAY_PER_REQUEST",
  StreamSpecification: { StreamEnabled: true, StreamViewType: "NEW_AND_OLD_IMAGES" },
}));
await waitUntilTableExists({ client, maxWaitTime: 20, minDelay: 1, maxDelay: 2 }, { TableName });

const whole = { player: "ann", level: 1, score: 12.5, won: true, nothing: null, list: ["a", { b: 2 }], set: new Set(["x", "y"]) };
await documents.send(new PutCommand({ TableName, Item: whole }));
const key = { player: "ann", level: 1 };
assert.deepEqual((await documents.send(new GetCommand({ TableName, Key: key }))).Item, whole);
const updated = await documents.send(new UpdateCommand({
  TableName, Key: key, UpdateExpression: "SET score = score + :s, #l[1].b = :b",
  ExpressionAttributeNames: { "#l": "list" }, ExpressionAttributeValues: { ":s": 1, ":b": 3 }, ReturnValues: "ALL_NEW",
}));
assert.equal(updated.Attributes.score, 13.5);
assert.deepEqual(updated.Attributes.list, ["a", { b: 3 }]);
await assert.rejects(
  documents.send(new PutCommand({
    TableName, Item: whole, ConditionExpression: "attribute_not_exists(player)",
    ReturnValuesOnConditionCheckFailure: "ALL_OLD",
  })),
  (error) => error.name === "ConditionalCheckFailedException" && error.Item.score.N === "13.5",
);

await documents.send(new BatchWriteCommand({
  RequestItems: { [TableName]: Array.from({ length: 25 }, (_, level) => ({ PutRequest: { Item: { player: "bob", level } } })) },
}));
let pages = 0;
const levels = [];
for await (const page of paginateQuery({ client: documents, pageSize: 10 }, {
  TableName, KeyConditionExpression: "player = :p", ExpressionAttributeValues: { ":p": "bob" },
})) {
  pages += 1;
  levels.push(...page.Items.map((item) => item.level));
}
assert.ok(pages >= 3);
assert.deepEqual(levels, Array.from({ length: 25 }, (_, level) => level));
const read = await documents.send(new BatchGetCommand({ RequestItems: { [TableName]: { Keys: [key, { player: "no", level: 0 }] } } }));
assert.equal(read.Responses[TableName].length, 1);
assert.equal((await documents.send(new ScanCommand({ TableName, Select: "COUNT" }))).Count, 26);
const selected = await documents.send(new ExecuteStatementCommand({
  Statement: `SELECT level FROM "${TableName}" WHERE player = ? AND level > ? ORDER BY level DESC`, Parameters: ["bob", 21],
}));
assert.deepEqual(selected.Items, [{ level: 24 }, { level: 23 }, { level: 22 }]);
await assert.rejects(
  documents.send(new TransactWriteCommand({
    TransactItems: [
      { Put: { TableName, Item: { player: "cid", level: 0 } } },
      { ConditionCheck: { TableName, Key: key, ConditionExpression: "score < :s", ExpressionAttributeValues: { ":s": 1 } } },
    ],
  })),
  (error) => error.name === "TransactionCanceledException" && error.CancellationReasons[1].Code === "ConditionalCheckFailed",
);

const streams = new DynamoDBStreamsClient({ region: process.env.AWS_DEFAULT_REGION });
const { Streams: [{ StreamArn }] } = await streams.send(new ListStreamsCommand({ TableName }));
const { StreamDescription } = await streams.send(new DescribeStreamCommand({ StreamArn }));
const records = [];
for (const { ShardId } of StreamDescription.Shards) {
  let { ShardIterator } = await streams.send(new GetShardIteratorCommand({ StreamArn, ShardId, ShardIteratorType: "TRIM_HORIZON" }));
  while (ShardIterator) {
    const page = await streams.send(new GetRecordsCommand({ ShardIterator, Limit: 10 }));
    if (page.Records.length === 0) break;
    records.push(...page.Records);
    ShardIterator = page.NextShardIterator;
  }
}
assert.equal(records.length, 27);
assert.deepEqual(records.slice(0, 2).map((record) => record.eventName), ["INSERT", "MODIFY"]);
assert.equal(records[1].dynamodb.OldImage.score.N, "12.5");
assert.ok(records[0].dynamodb.ApproximateCreationDateTime instanceof Date);
await client.send(new DeleteTableCommand({ TableName }));
console.log("done");
