package headrace;

import com.amazonaws.ClientConfiguration;
import com.amazonaws.auth.AWSStaticCredentialsProvider;
import com.amazonaws.auth.BasicAWSCredentials;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.services.dynamodbv2.AmazonDynamoDB;
import com.amazonaws.services.dynamodbv2.AmazonDynamoDBClientBuilder;
import com.amazonaws.services.dynamodbv2.AmazonDynamoDBStreams;
import com.amazonaws.services.dynamodbv2.AmazonDynamoDBStreamsClientBuilder;
import com.amazonaws.services.dynamodbv2.model.BillingMode;
import com.amazonaws.services.dynamodbv2.model.StreamRecord;
import com.amazonaws.services.dynamodbv2.streamsadapter.AmazonDynamoDBStreamsAdapterClient;
import com.amazonaws.services.dynamodbv2.streamsadapter.StreamsWorkerFactory;
import com.amazonaws.services.dynamodbv2.streamsadapter.model.RecordAdapter;
import com.amazonaws.services.kinesis.clientlibrary.interfaces.v2.IRecordProcessor;
import com.amazonaws.services.kinesis.clientlibrary.lib.worker.InitialPositionInStream;
import com.amazonaws.services.kinesis.clientlibrary.lib.worker.KinesisClientLibConfiguration;
import com.amazonaws.services.kinesis.clientlibrary.lib.worker.ShutdownReason;
import com.amazonaws.services.kinesis.clientlibrary.lib.worker.Worker;
import com.amazonaws.services.kinesis.clientlibrary.types.InitializationInput;
import com.amazonaws.services.kinesis.clientlibrary.types.ProcessRecordsInput;
import com.amazonaws.services.kinesis.clientlibrary.types.ShutdownInput;
import com.amazonaws.services.kinesis.metrics.impl.NullMetricsFactory;
import com.amazonaws.services.kinesis.metrics.interfaces.MetricsLevel;
import com.amazonaws.services.kinesis.model.Record;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * Reads a stream of DynamoDB from its beginning, as its users do, and prints a line for each record: its shard, the key
 * {@code id}, the number {@code n}. It ends when its input does.
 *
 * <p>Arguments: endpoint, region, ARN of the stream.
 */
public final class Consumer {
  private static final long STOP_SECONDS = 20;
  private static final Object OUTPUT = new Object();

  private Consumer() {}

  public static void main(String[] arguments) throws Exception {
    String streamArn = arguments[2];
    EndpointConfiguration endpoint = new EndpointConfiguration(arguments[0], arguments[1]);
    AWSStaticCredentialsProvider credentials =
        new AWSStaticCredentialsProvider(new BasicAWSCredentials("any", "any"));
    AmazonDynamoDB tables =
        AmazonDynamoDBClientBuilder.standard()
            .withEndpointConfiguration(endpoint)
            .withCredentials(credentials)
            .build();
    AmazonDynamoDBStreams streams =
        AmazonDynamoDBStreamsClientBuilder.standard()
            .withEndpointConfiguration(endpoint)
            .withCredentials(credentials)
            .withClientConfiguration(new ClientConfiguration())
            .build();
    ExecutorService executor = Executors.newCachedThreadPool();
    // All intervals are shorter than their defaults, which are made for streams that are read for months.
    KinesisClientLibConfiguration configuration =
        new KinesisClientLibConfiguration("headrace-kcl", streamArn, credentials, "worker")
            .withInitialPositionInStream(InitialPositionInStream.TRIM_HORIZON)
            .withRegionName(arguments[1])
            .withBillingMode(BillingMode.PAY_PER_REQUEST)
            .withMetricsLevel(MetricsLevel.NONE)
            .withMaxRecords(100)
            .withIdleTimeBetweenReadsInMillis(100)
            .withFailoverTimeMillis(1_000)
            .withShardSyncIntervalMillis(1_000)
            .withParentShardPollIntervalMillis(100)
            .withTaskBackoffTimeMillis(100);
    Worker worker =
        StreamsWorkerFactory.createDynamoDbStreamsWorker(
            Printer::new,
            configuration,
            new AmazonDynamoDBStreamsAdapterClient(streams),
            tables,
            new NullMetricsFactory(),
            executor);
    executor.submit(worker);
    while (System.in.read() >= 0) {
      // What comes does not matter, only its end.
    }
    worker.startGracefulShutdown().get(STOP_SECONDS, TimeUnit.SECONDS);
    executor.shutdownNow();
    print("done");
    // The clients leave threads behind.
    System.exit(0);
  }

  private static void print(String line) {
    synchronized (OUTPUT) {
      System.out.println(line);
      System.out.flush();
    }
  }

  /** Prints the records of one shard, and checkpoints after each batch. */
  private static final class Printer implements IRecordProcessor {
    private String shardId;

    @Override
    public void initialize(InitializationInput input) {
      shardId = input.getShardId();
      print("begin " + shardId);
    }

    @Override
    public void processRecords(ProcessRecordsInput input) {
      for (Record record : input.getRecords()) {
        StreamRecord change = ((RecordAdapter) record).getInternalObject().getDynamodb();
        print(
            String.join(
                " ",
                "record",
                shardId,
                change.getNewImage().get("id").getS(),
                change.getNewImage().get("n").getN()));
      }
      if (!input.getRecords().isEmpty()) {
        try {
          input.getCheckpointer().checkpoint();
        } catch (Exception error) {
          throw new IllegalStateException(error);
        }
      }
    }

    @Override
    public void shutdown(ShutdownInput input) {
      if (input.getShutdownReason() == ShutdownReason.TERMINATE) {
        try {
          input.getCheckpointer().checkpoint();
        } catch (Exception error) {
          throw new IllegalStateException(error);
        }
        print("end " + shardId);
      }
    }
  }
}
