package touchstone.bench;

import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;

/**
 * One block cache for all stores of the process, as "RocksDBConfigSetter" of Kafka Streams' guide to
 * memory management has it, and memtables of the size that Touchstone uses. Indexes and filters stay
 * outside of the cache, as is Streams' default and as is faster.
 */
public final class SharedRocksDB implements RocksDBConfigSetter {
    static final String CACHE_BYTES = "bench.rocksdb.cache.bytes";

    private static Cache cache;

    private static synchronized Cache shared(long bytes) {
        if (cache == null) {
            cache = new LRUCache(bytes);
        }
        return cache;
    }

    @Override
    public void setConfig(String storeName, Options options, Map<String, Object> configs) {
        BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
        table.setBlockCache(shared(Long.parseLong(configs.get(CACHE_BYTES).toString())));
        options.setTableFormatConfig(table);
        options.setWriteBufferSize(32L << 20);
    }

    @Override
    public void close(String storeName, Options options) {
        // The cache lives as long as the process.
    }
}
