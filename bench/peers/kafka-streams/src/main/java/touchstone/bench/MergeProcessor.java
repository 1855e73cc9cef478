package touchstone.bench;

import java.util.List;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import touchstone.platform.v1.Change;
import touchstone.platform.v1.Entity;
import touchstone.platform.v1.Fact;
import touchstone.platform.v1.Outcome;
import touchstone.platform.v1.Signal;

/** Dedupe, merge and emission of one fact, in one step. */
final class MergeProcessor implements Processor<String, Fact, String, SpecificRecord> {
    static final String ENTITIES = "entities";
    static final String SEEN = "seen";
    static final String CHANGES = "changes";
    static final String OUTCOMES = "outcomes";

    private final Merge merge;
    private final boolean separateDedupe;
    private final boolean outcomes;
    private ProcessorContext<String, SpecificRecord> context;
    private KeyValueStore<String, Entity> entities;
    private KeyValueStore<String, byte[]> seen;

    MergeProcessor(Merge merge, boolean separateDedupe, boolean outcomes) {
        this.merge = merge;
        this.separateDedupe = separateDedupe;
        this.outcomes = outcomes;
    }

    @Override
    public void init(ProcessorContext<String, SpecificRecord> context) {
        this.context = context;
        entities = context.getStateStore(ENTITIES);
        if (separateDedupe) {
            seen = context.getStateStore(SEEN);
        }
    }

    @Override
    public void process(Record<String, Fact> record) {
        Signal s = record.value().getSignal();
        if (separateDedupe && seen.putIfAbsent(s.getId(), new byte[0]) != null) {
            return;
        }
        Entity before = entities.get(record.key());
        boolean known = before != null && Merge.mentions(before, s);
        Merge.Result r = merge.apply(before, record.value());
        if (r.stored()) {
            entities.put(record.key(), r.entity());
        }
        Change change = r.change();
        if (change != null) {
            context.forward(record.withValue((SpecificRecord) change), CHANGES);
        }
        if (outcomes && !(known && change == null)) {
            context.forward(record.withKey(s.getJournal()).withValue((SpecificRecord) outcome(s, r)), OUTCOMES);
        }
    }

    private static Outcome outcome(Signal s, Merge.Result r) {
        List<String> events = r.change() == null ? List.of() : List.of(r.change().getEvents().get(0).getId());
        return new Outcome(s.getJournal(), -1, 1, r.change() == null ? "no-change" : "change", s.getSource(), "", "", "",
                s.getTenant(), s.getResource(), r.entity().getId(), r.entity().getVersion(), events,
                s.getCause().getCorrelation(), s.getReceivedAt());
    }
}
