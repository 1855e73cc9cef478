package touchstone.bench;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import touchstone.platform.v1.Change;
import touchstone.platform.v1.Contribution;
import touchstone.platform.v1.Entity;
import touchstone.platform.v1.Fact;
import touchstone.platform.v1.Field;
import touchstone.platform.v1.FieldChange;
import touchstone.platform.v1.Named;
import touchstone.platform.v1.Ref;
import touchstone.platform.v1.Register;
import touchstone.platform.v1.Signal;
import touchstone.platform.v1.Stamp;

/**
 * The merge, as it would be written for this one domain: the newest claim of each source for each
 * field is kept, the most authoritative source that has one wins, and a change is made if a
 * canonical value changed. It knows no lifecycle, no deletion and no policy but priority, since the
 * domain has none.
 */
final class Merge {
    /** A field and the sources that may decide it, the most authoritative first. */
    record Authority(String field, String[] sources) {}

    private static final byte[] NAMESPACE = {
        (byte) 0x9a, 0x5c, 0x1f, 0x0e, 0x6d, 0x0b, 0x5e, 0x6b,
        (byte) 0x8f, 0x10, 0x2b, 0x61, 0x7d, 0x3e, 0x44, (byte) 0xc7
    };
    private static final char[] HEX = "0123456789abcdef".toCharArray();

    private final String domain;
    private final String definition;
    private final Authority[] authorities;
    private final MessageDigest sha1;

    /** What merging a fact did; the entity is the one given, changed. */
    record Result(Entity entity, boolean stored, Change change) {}

    Merge(String domain, String definition, Authority[] authorities) {
        this.domain = domain;
        this.definition = definition;
        this.authorities = authorities;
        try {
            this.sha1 = MessageDigest.getInstance("SHA-1");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Merges a fact into an entity, null if there is none. */
    Result apply(Entity e, Fact fact) {
        Signal s = fact.getSignal();
        if (e == null) {
            e = fresh(fact);
        }
        boolean joined = false;
        if (s.getReceivedAt() > e.getSeenAt()) {
            e.setSeenAt(s.getReceivedAt());
            joined = true;
        }
        joined |= join(contribution(e, s), s);
        if (!joined) {
            return new Result(e, false, null);
        }
        List<Field> before = e.getFields();
        resolve(e);
        Change change = diff(before, e, s);
        if (change != null) {
            e.setVersion(e.getVersion() + 1);
            if (e.getVersion() == 1) {
                e.setCreatedAt(s.getReceivedAt());
            }
            e.setUpdatedAt(s.getReceivedAt());
            change.setVersion(e.getVersion());
            // Both lists are sorted by name.
            int i = 0;
            for (FieldChange c : change.getChanged()) {
                while (!e.getFields().get(i).getName().equals(c.getName())) {
                    i++;
                }
                e.getFields().get(i).setSince(e.getVersion());
            }
            String type = e.getVersion() == 1 ? "AccountOpened" : "AccountUpdated";
            change.setEvents(List.of(new Ref(eventId(e, type), type)));
        }
        return new Result(e, true, change);
    }

    /** Tells whether a signal was merged before and is still referred to. */
    static boolean mentions(Entity e, Signal s) {
        for (Contribution c : e.getContributions()) {
            if (c.getSource().equals(s.getSource()) && c.getSourceKey().equals(s.getSourceKey())) {
                for (Stamp t : c.getStamps()) {
                    if (t.getSignal().equals(s.getId())) {
                        return true;
                    }
                }
            }
        }
        return false;
    }

    private Entity fresh(Fact fact) {
        Signal s = fact.getSignal();
        return new Entity(s.getTenant(), s.getResource(), fact.getEntity(), 0L, true, "", 0L, new ArrayList<>(),
                new ArrayList<>(), List.of(), "", null, List.of(), 0L, 0L, 0L, definition);
    }

    /** Finds or inserts the contribution of a source record; they are sorted. */
    private static Contribution contribution(Entity e, Signal s) {
        List<Contribution> all = e.getContributions();
        int i = 0;
        for (; i < all.size(); i++) {
            Contribution c = all.get(i);
            int d = c.getSource().compareTo(s.getSource());
            if (d == 0) {
                d = c.getSourceKey().compareTo(s.getSourceKey());
            }
            if (d == 0) {
                return c;
            }
            if (d > 0) {
                break;
            }
        }
        Contribution c = new Contribution(s.getSource(), s.getSourceKey(), new ArrayList<>(2), new ArrayList<>(s.getFields().size()), null);
        all.add(i, c);
        for (Field f : e.getFields()) {
            if (f.getWinner() >= i) {
                f.setWinner(f.getWinner() + 1);
            }
        }
        return c;
    }

    private static int compare(Stamp a, Signal b) {
        int d = Long.compare(a.getOccurredAt(), b.getOccurredAt());
        if (d == 0) {
            d = Long.compare(a.getSequence(), b.getSequence());
        }
        if (d == 0) {
            d = Long.compare(a.getReceivedAt(), b.getReceivedAt());
        }
        return d == 0 ? a.getSignal().compareTo(b.getId()) : d;
    }

    /** Lets each claim win over an older one; tells whether any did, or the signal is the newest. */
    private static boolean join(Contribution c, Signal s) {
        List<Stamp> stamps = c.getStamps();
        List<Register> registers = c.getRegisters();
        int at = stamps.size();
        boolean known = false;
        while (at > 0) {
            int d = compare(stamps.get(at - 1), s);
            if (d < 0) {
                break;
            }
            at--;
            if (d == 0) {
                known = true;
                break;
            }
        }
        if (known) {
            return false; // the same claims again
        }
        boolean wins = at == stamps.size();
        for (int i = 0, r = 0; i < s.getFields().size() && !wins; i++) {
            String name = s.getFields().get(i).getName();
            while (r < registers.size() && registers.get(r).getName().compareTo(name) < 0) {
                r++;
            }
            wins = r == registers.size() || !registers.get(r).getName().equals(name) || registers.get(r).getStamp() < at;
        }
        if (!wins) {
            return false;
        }
        stamps.add(at, new Stamp(s.getOccurredAt(), s.getSequence(), s.getReceivedAt(), s.getId()));
        for (Register r : registers) {
            if (r.getStamp() >= at) {
                r.setStamp(r.getStamp() + 1);
            }
        }
        int r = 0;
        for (Named claim : s.getFields()) {
            while (r < registers.size() && registers.get(r).getName().compareTo(claim.getName()) < 0) {
                r++;
            }
            if (r == registers.size() || !registers.get(r).getName().equals(claim.getName())) {
                registers.add(r, new Register(claim.getName(), claim.getValue(), at));
            } else if (registers.get(r).getStamp() <= at) {
                registers.get(r).setValue(claim.getValue());
                registers.get(r).setStamp(at);
            }
        }
        dropUnused(stamps, registers);
        return true;
    }

    private static void dropUnused(List<Stamp> stamps, List<Register> registers) {
        int n = stamps.size();
        int[] moved = new int[n];
        Arrays.fill(moved, -1);
        for (Register r : registers) {
            moved[r.getStamp()] = 0;
        }
        moved[n - 1] = 0;
        int kept = 0;
        for (int i = 0; i < n; i++) {
            if (moved[i] == 0) {
                moved[i] = kept;
                stamps.set(kept++, stamps.get(i));
            }
        }
        if (kept == n) {
            return;
        }
        for (int i = n - 1; i >= kept; i--) {
            stamps.remove(i);
        }
        for (Register r : registers) {
            r.setStamp(moved[r.getStamp()]);
        }
    }

    private void resolve(Entity e) {
        List<Field> previous = e.getFields();
        List<Contribution> all = e.getContributions();
        int n = all.size();
        int[] next = new int[n];
        List<Field> fields = new ArrayList<>(authorities.length);
        int old = 0;
        for (Authority a : authorities) {
            int best = Integer.MAX_VALUE;
            int winner = -1;
            Register won = null;
            // Registers and authorities are sorted by name: one walk over each.
            for (int i = 0; i < n; i++) {
                List<Register> rs = all.get(i).getRegisters();
                int d = 1;
                while (next[i] < rs.size() && (d = rs.get(next[i]).getName().compareTo(a.field())) < 0) {
                    next[i]++;
                }
                if (next[i] == rs.size() || d != 0) {
                    continue;
                }
                int rank = rank(a, all.get(i).getSource());
                if (rank < best) {
                    best = rank;
                    winner = i;
                    won = rs.get(next[i]);
                }
            }
            if (won == null) {
                continue;
            }
            while (old < previous.size() && previous.get(old).getName().compareTo(a.field()) < 0) {
                old++;
            }
            long since = old < previous.size() && previous.get(old).getName().equals(a.field()) ? previous.get(old).getSince() : 0;
            fields.add(new Field(a.field(), won.getValue(), winner, since, 0.0));
        }
        e.setFields(fields);
        e.setExists(true);
    }

    private static int rank(Authority a, String source) {
        for (int i = 0; i < a.sources().length; i++) {
            if (a.sources()[i].equals(source)) {
                return i;
            }
        }
        return Integer.MAX_VALUE;
    }

    private Change diff(List<Field> before, Entity e, Signal s) {
        List<FieldChange> changed = null;
        int b = 0;
        for (Field f : e.getFields()) {
            while (b < before.size() && before.get(b).getName().compareTo(f.getName()) < 0) {
                b++;
            }
            boolean was = b < before.size() && before.get(b).getName().equals(f.getName());
            if (was && before.get(b).getValue().equals(f.getValue())) {
                continue;
            }
            if (changed == null) {
                changed = new ArrayList<>(4);
            }
            Contribution w = e.getContributions().get(f.getWinner());
            changed.add(new FieldChange(f.getName(), was ? before.get(b).getValue() : "", f.getValue(), w.getSource(), w.getSourceKey()));
        }
        if (changed == null) {
            return null;
        }
        List<Named> after = new ArrayList<>(e.getFields().size());
        for (Field f : e.getFields()) {
            after.add(new Named(f.getName(), f.getValue()));
        }
        return new Change(e.getTenant(), e.getResource(), e.getId(), 0L, e.getVersion() == 0 ? "created" : "updated", "", "",
                changed, after, List.of(), s.getId(), s.getJournal(), s.getSource(), s.getOccurredAt(), s.getReceivedAt(),
                s.getCause(), definition);
    }

    /** A version 5 UUID of domain, entity, version and type. */
    private String eventId(Entity e, String type) {
        sha1.reset();
        sha1.update(NAMESPACE);
        String name = domain + "\n" + e.getTenant() + "/" + e.getResource() + "/" + e.getId() + "\n" + e.getVersion() + "\n" + type;
        byte[] u = sha1.digest(name.getBytes(StandardCharsets.UTF_8));
        u[6] = (byte) (u[6] & 0x0f | 0x50);
        u[8] = (byte) (u[8] & 0x3f | 0x80);
        char[] out = new char[36];
        for (int i = 0, o = 0; i < 16; i++) {
            if (i == 4 || i == 6 || i == 8 || i == 10) {
                out[o++] = '-';
            }
            out[o++] = HEX[u[i] >> 4 & 15];
            out[o++] = HEX[u[i] & 15];
        }
        return new String(out);
    }
}
