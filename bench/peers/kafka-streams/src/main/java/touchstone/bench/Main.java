package touchstone.bench;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import org.apache.avro.specific.SpecificRecord;
import touchstone.platform.v1.Change;
import touchstone.platform.v1.Entity;
import touchstone.platform.v1.Fact;
import touchstone.platform.v1.Outcome;

/** Runs the merge in Kafka Streams until it is told to end. Arguments are name=value. */
public final class Main {
    private Main() {}

    public static void main(String[] args) throws InterruptedException {
        Map<String, String> given = new HashMap<>();
        for (String a : args) {
            int i = a.indexOf('=');
            if (i < 0) {
                throw new IllegalArgumentException("found \"" + a + "\", expected name=value");
            }
            given.put(a.substring(0, i), a.substring(i + 1));
        }
        KafkaStreams streams = new KafkaStreams(topology(given), config(given));
        CountDownLatch ended = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                ended.countDown();
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(30))));
        streams.start();
        ended.await();
        System.exit(1);
    }

    private static Topology topology(Map<String, String> given) {
        AvroSerde<Fact> facts = new AvroSerde<>(Fact.getClassSchema(), id(given, "factId"));
        AvroSerde<Entity> entities = new AvroSerde<>(Entity.getClassSchema(), id(given, "entityId"));
        AvroSerde<SpecificRecord> changes = new AvroSerde<>(Change.getClassSchema(), id(given, "changeId"));
        AvroSerde<SpecificRecord> outcomes = new AvroSerde<>(Outcome.getClassSchema(), id(given, "outcomeId"));
        boolean separateDedupe = given.get("dedupe").equals("store");
        boolean emitOutcomes = Boolean.parseBoolean(given.get("outcomes"));
        List<Merge.Authority> authorities = new ArrayList<>();
        for (String field : given.get("fields").split(";")) {
            String[] parts = field.split(":");
            authorities.add(new Merge.Authority(parts[0], parts[1].split(",")));
        }
        Merge.Authority[] layout = authorities.toArray(new Merge.Authority[0]);

        // Caching matters only if statestore.cache.max.bytes is not 0.
        StoreBuilder<KeyValueStore<String, Entity>> store =
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(MergeProcessor.ENTITIES), Serdes.String(), entities)
                        .withCachingEnabled();
        Topology t = new Topology();
        t.addSource("facts", Serdes.String().deserializer(), facts, given.get("facts"));
        t.addProcessor("merge",
                () -> new MergeProcessor(new Merge(given.get("domain"), given.get("definition"), layout), separateDedupe, emitOutcomes), "facts");
        t.addStateStore(store, "merge");
        if (separateDedupe) {
            t.addStateStore(Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(MergeProcessor.SEEN), Serdes.String(), Serdes.ByteArray())
                    .withCachingEnabled(), "merge");
        }
        t.addSink(MergeProcessor.CHANGES, given.get("changes"), Serdes.String().serializer(), changes, "merge");
        if (emitOutcomes) {
            t.addSink(MergeProcessor.OUTCOMES, given.get("outcomesTopic"), Serdes.String().serializer(), outcomes, "merge");
        }
        return t;
    }

    private static int id(Map<String, String> given, String name) {
        return Integer.parseInt(given.get(name));
    }

    private static Properties config(Map<String, String> given) {
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, given.get("group"));
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given.get("brokers"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, Path.of(given.get("dir"), "state").toString());
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, given.get("commit"));
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, given.get("recordCache"));
        p.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, SharedRocksDB.class);
        p.put(SharedRocksDB.CACHE_BYTES, given.get("blockCache"));
        p.put(StreamsConfig.METRICS_RECORDING_LEVEL_CONFIG, "INFO");
        // As many records and bytes at a time as the others take, and batches
        // that fill in the time of a commit.
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_BYTES_CONFIG), 50 << 20);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 10 << 20);
        p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), given.get("linger"));
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG), 10_000);
        // A member that was killed is known again by its name, without waiting
        // for its session to end.
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), "bench");
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 10_000);
        return p;
    }
}
