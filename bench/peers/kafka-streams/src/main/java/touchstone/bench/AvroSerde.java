package touchstone.bench;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import org.apache.avro.Schema;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.specific.SpecificDatumReader;
import org.apache.avro.specific.SpecificDatumWriter;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serializer;

/**
 * Specific records in the Confluent wire format: magic byte 0, schema id, Avro. One schema id is
 * known and no registry is asked, which is what the Confluent serializer comes to once it has
 * cached the id. Buffers, decoder and encoder are used again: one stream thread owns them.
 */
final class AvroSerde<T extends SpecificRecord> implements Serde<T>, Serializer<T>, Deserializer<T> {
    private static final int HEADER = 5;

    private final int id;
    private final SpecificDatumReader<T> reader;
    private final SpecificDatumWriter<T> writer;
    private final ByteArrayOutputStream buffer = new ByteArrayOutputStream(8192);
    private BinaryDecoder decoder;
    private BinaryEncoder encoder;

    AvroSerde(Schema schema, int id) {
        this.id = id;
        this.reader = new SpecificDatumReader<>(schema);
        this.writer = new SpecificDatumWriter<>(schema);
    }

    @Override
    public byte[] serialize(String topic, T value) {
        if (value == null) {
            return null;
        }
        buffer.reset();
        buffer.writeBytes(ByteBuffer.allocate(HEADER).put((byte) 0).putInt(id).array());
        encoder = EncoderFactory.get().binaryEncoder(buffer, encoder);
        try {
            writer.write(value, encoder);
            encoder.flush();
        } catch (IOException e) {
            throw new SerializationException(topic, e);
        }
        return buffer.toByteArray();
    }

    @Override
    public T deserialize(String topic, byte[] bytes) {
        if (bytes == null) {
            return null;
        }
        if (bytes.length < HEADER || bytes[0] != 0) {
            throw new SerializationException(topic + ": expected magic byte 0 and a schema id");
        }
        decoder = DecoderFactory.get().binaryDecoder(bytes, HEADER, bytes.length - HEADER, decoder);
        try {
            return reader.read(null, decoder);
        } catch (IOException e) {
            throw new SerializationException(topic, e);
        }
    }

    @Override
    public Serializer<T> serializer() {
        return this;
    }

    @Override
    public Deserializer<T> deserializer() {
        return this;
    }

    @Override
    public void configure(java.util.Map<String, ?> configs, boolean isKey) {
        // Everything is given to the constructor.
    }

    @Override
    public void close() {
        // Nothing is held.
    }
}
