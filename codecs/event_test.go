package codecs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/linkedin/goavro/v2"
	"github.com/sebdah/goldie/v2"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

func typed(k canonical.Kind) canonical.Type { return canonical.Type{Kind: k} }

func list(t canonical.Type) canonical.Type {
	return canonical.Type{Kind: canonical.KindList, Elem: &t}
}

// shop has a resource with a field of every kind, and one without a lifecycle.
func shop() *definition.Domain {
	money := canonical.Type{Kind: canonical.KindRecord, Fields: []canonical.NamedType{{Name: "amount", Type: typed(canonical.KindDecimal)}, {Name: "currency", Type: typed(canonical.KindString)}}}
	field := func(name string, t canonical.Type) *definition.Field { return &definition.Field{Name: name, Type: t} }
	order := &definition.Resource{
		Name: "sales-order", Doc: "An order as customers see it.", Identity: []string{"number"},
		Lifecycle: &definition.Lifecycle{Field: "status", Initial: "open"},
		Fields: []*definition.Field{
			field("anything", typed(canonical.KindJSON)),
			field("blob", typed(canonical.KindBytes)),
			field("count", typed(canonical.KindInt)),
			{Name: "customerEmail", Type: typed(canonical.KindString), Doc: "Where the receipt goes.", PII: "contact"},
			field("due", typed(canonical.KindDate)),
			field("exact-rate", typed(canonical.KindDecimal)),
			field("labels", canonical.Type{Kind: canonical.KindMap, Elem: &money}),
			field("lines", list(canonical.Type{Kind: canonical.KindRecord, Fields: []canonical.NamedType{{Name: "sku", Type: typed(canonical.KindString)}, {Name: "price", Type: money}}})),
			field("number", typed(canonical.KindString)),
			field("paid", typed(canonical.KindBool)),
			field("placedAt", typed(canonical.KindTimestamp)),
			{Name: "status", Type: canonical.Type{Kind: canonical.KindEnum, Symbols: []string{"open", "shipped"}}, Doc: "Where it stands."},
			field("tags", list(typed(canonical.KindString))),
			field("weight", typed(canonical.KindFloat)),
		},
		Events: []*definition.EventRule{{Type: "OrderShipped", Doc: "The order left the house."}, {Type: "OrderChanged"}},
	}
	slices.SortFunc(order.Fields, func(a, b *definition.Field) int { return strings.Compare(a.Name, b.Name) })
	store := &definition.Resource{Name: "store", Identity: []string{"code"}, Fields: []*definition.Field{field("code", typed(canonical.KindString))}, Events: []*definition.EventRule{{Type: "StoreOpened"}}}
	return &definition.Domain{Name: "web-shop", Resources: []*definition.Resource{order, store}}
}

// The generated schemas are as reviewed, the same each time, and taken by both
// libraries. Run with -update after a wanted change.
func TestDomainSchemas(t *testing.T) {
	got, err := DomainSchemas(shop())
	if err != nil {
		t.Fatal(err)
	}
	again, err := DomainSchemas(shop())
	if err != nil || !cmp.Equal(got, again) {
		t.Error("generated differently the second time")
	}
	g := goldie.New(t, goldie.WithNameSuffix(".avsc"))
	var subjects []string
	for _, s := range got {
		subjects = append(subjects, s.Subject)
		g.Assert(t, s.Name, []byte(s.Schema))
		if _, err := goavro.NewCodec(s.Schema); err != nil {
			t.Errorf("%s: goavro: %v", s.Name, err)
		}
		if _, err := avro.Parse(s.Schema); err != nil {
			t.Errorf("%s: twmb/avro: %v", s.Name, err)
		}
	}
	want := []string{
		"web.shop.v1.SalesOrder", "web-shop.events.v1-web.shop.v1.OrderShipped", "web-shop.events.v1-web.shop.v1.OrderChanged",
		"web.shop.v1.Store", "web-shop.events.v1-web.shop.v1.StoreOpened",
	}
	if d := cmp.Diff(want, subjects); d != "" {
		t.Error(d)
	}
}

// Adding and removing fields, and giving the resource a lifecycle, are compatible
// both ways.
func TestDomainSchemasEvolve(t *testing.T) {
	before := shop()
	after := shop()
	r := after.Resources[0]
	r.Fields = append(r.Fields[2:], &definition.Field{Name: "zone", Type: list(typed(canonical.KindInt))})
	after.Resources[1].Lifecycle = &definition.Lifecycle{Field: "code"}
	one, err := DomainSchemas(before)
	if err != nil {
		t.Fatal(err)
	}
	two, err := DomainSchemas(after)
	if err != nil {
		t.Fatal(err)
	}
	for i := range one {
		a, b := avro.MustParse(one[i].Schema), avro.MustParse(two[i].Schema)
		if err := avro.CheckCompatibility(a, b); err != nil {
			t.Errorf("%s: new reads old: %v", one[i].Name, err)
		}
		if err := avro.CheckCompatibility(b, a); err != nil {
			t.Errorf("%s: old reads new: %v", one[i].Name, err)
		}
	}
}

func TestDomainSchemasRefuseNamesThatCollide(t *testing.T) {
	for what, change := range map[string]func(d *definition.Domain){
		"event SalesOrder both give the name":                func(d *definition.Domain) { d.Resources[0].Events[0].Type = "SalesOrder" },
		`event "3D": expected a name`:                        func(d *definition.Domain) { d.Resources[0].Events[0].Type = "3D" },
		"event OrderShipped and event OrderShipped both":     func(d *definition.Domain) { d.Resources[0].Events[1].Type = "OrderShipped" },
		"field store.a-b and field store.a_b both":           func(d *definition.Domain) { d.Resources[1].Fields = []*definition.Field{{Name: "a-b"}, {Name: "a_b"}} },
		"resource sales-order and resource sales_order both": func(d *definition.Domain) { d.Resources[1].Name = "sales_order" },
	} {
		d := shop()
		change(d)
		if _, err := DomainSchemas(d); err == nil || failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want a Validation failure with %q", err, what)
		}
	}
}

func openShop(t testing.TB) *EventCodec {
	t.Helper()
	fake := srfake.New()
	t.Cleanup(fake.Close)
	r, err := NewRegistry(RegistryOptions{URL: fake.URL(), Patience: -1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenEvents(context.Background(), r, shop())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventReader gives goavro's codec of an event of the shop.
func eventReader(t testing.TB, eventType string) *goavro.Codec {
	t.Helper()
	schemas, err := DomainSchemas(shop())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range schemas {
		if s.Event == eventType {
			c, err := goavro.NewCodec(s.Schema)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	t.Fatalf("no event %s", eventType)
	return nil
}

func shipped() PublicEvent {
	return PublicEvent{
		Ref: event.Ref{ID: "6ba7b810-9dad-51d1-80b4-00c04fd430c8", Type: "OrderShipped"},
		Change: &event.Change{
			Tenant: "acme", Resource: "sales-order", ID: "SO-1", Version: 42, Kind: event.Updated, FromState: "open", ToState: "shipped",
			Changed: []event.FieldChange{{Name: "exact-rate", After: `"12.5"`}, {Name: "retired", Before: "1"}, {Name: "status", Before: `"open"`, After: `"shipped"`}},
			After: []canonical.Named{
				{Name: "anything", Value: `{"deep":[1,null,"x"]}`}, {Name: "blob", Value: `"AP8="`}, {Name: "count", Value: "9007199254740993"},
				{Name: "customerEmail", Value: canonical.Null}, {Name: "due", Value: `"1969-07-20"`}, {Name: "exact-rate", Value: `"12.5"`},
				{Name: "labels", Value: `{"eu":{"amount":"1","currency":"EUR"},"none":null}`},
				{Name: "lines", Value: `[{"price":{"amount":"2.50"},"sku":"a"},null]`},
				{Name: "number", Value: `"SO-1"`}, {Name: "paid", Value: "true"}, {Name: "placedAt", Value: `"2026-02-03T04:05:06.789Z"`},
				{Name: "retired", Value: "1"}, {Name: "status", Value: `"shipped"`}, {Name: "tags", Value: `["b","a\u0007"]`}, {Name: "weight", Value: "2"},
			},
			OccurredAt: at, ReceivedAt: at + 1, Cause: envelope.Cause{Correlation: "c-1", Causation: "web-shop:0:7", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		},
	}
}

// An event is read back as plain values that say what the change says.
func TestEventRoundTrip(t *testing.T) {
	c := openShop(t)
	b, err := c.Encode(shipped())
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	e := v.(*DecodedEvent)
	none := func() map[string]any {
		m := map[string]any{}
		for _, f := range shop().Resources[0].Fields {
			m[avroName(f.Name)] = nil
		}
		return m
	}
	previous := none()
	previous["status"] = "open"
	want := map[string]any{
		"id": "SO-1", "version": int64(42), "change": "updated", "occurredAt": "2026-02-03T04:05:06.000789Z", "recordedAt": "2026-02-03T04:05:06.00079Z",
		"state": "shipped", "previousState": "open", "changed": []any{"exact_rate", "status"}, "previous": previous,
		"entity": map[string]any{
			"anything": map[string]any{"deep": []any{int64(1), nil, "x"}}, "blob": "AP8=", "count": int64(9007199254740993), "customerEmail": nil, "due": "1969-07-20",
			"exact_rate": "12.5", "labels": map[string]any{"eu": map[string]any{"amount": "1", "currency": "EUR"}, "none": nil},
			"lines":  []any{map[string]any{"price": map[string]any{"amount": "2.50", "currency": nil}, "sku": "a"}, nil},
			"number": "SO-1", "paid": true, "placedAt": "2026-02-03T04:05:06.789Z", "status": "shipped", "tags": []any{"b", "a\a"}, "weight": 2.0,
		},
	}
	if d := cmp.Diff(want, e.Data); d != "" {
		t.Error(d)
	}
	if e.Name != "web.shop.v1.OrderShipped" || c.DataSchema("OrderShipped") == "" || !strings.HasSuffix(c.DataSchema("OrderShipped"), "/schemas/ids/2") {
		t.Errorf("name %s, schema %s", e.Name, c.DataSchema("OrderShipped"))
	}
	if text, err := e.JSON(); err != nil || !json.Valid(text) {
		t.Errorf("%s, %v", text, err)
	}
	// Written by us and read by one library above; the other reads the same.
	native, rest, err := eventReader(t, "OrderShipped").NativeFromBinary(b[5:])
	if err != nil || len(rest) > 0 {
		t.Fatalf("goavro: %v, %d bytes left", err, len(rest))
	}
	s, err := c.reader.schema(2)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, s.shape.plain(native)); d != "" {
		t.Errorf("goavro reads something else: %s", d)
	}
}

func TestCreatedAndDeletedEvents(t *testing.T) {
	c := openShop(t)
	p := PublicEvent{Ref: event.Ref{Type: "StoreOpened"}, Change: &event.Change{ID: "1", Version: 1, Kind: event.Created, After: []canonical.Named{{Name: "code", Value: `"1"`}}}}
	for _, kind := range []event.ChangeKind{event.Created, event.Deleted} {
		p.Change.Kind = kind
		b, err := c.Encode(&p)
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		data := v.(*DecodedEvent).Data
		if _, has := data["state"]; has || data["occurredAt"] != nil || data["change"] != string(kind) || (data["previous"] == nil) != (kind == event.Created) {
			t.Errorf("%s: %v", kind, data)
		}
	}
}

func TestEventRefusals(t *testing.T) {
	c := openShop(t)
	for want, e := range map[string]any{
		"found codecs.PublicEvent, expected a PublicEvent with a change": PublicEvent{},
		"found <nil>, expected":                nil,
		`the definition has no event "X"`:      PublicEvent{Change: &event.Change{}, Ref: event.Ref{Type: "X"}},
		`field code: found 5, expected string`: PublicEvent{Change: &event.Change{After: []canonical.Named{{Name: "code", Value: "5"}}}, Ref: event.Ref{Type: "StoreOpened"}},
	} {
		if _, err := c.Encode(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	good, err := c.Encode(shipped())
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		// A list of 2^31-1 changed fields, in a record that ends there.
		"lying":     append(slices.Clone(good[:5]), 2, '1', 2, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f),
		"truncated": good[:len(good)-3], "trailing": append(slices.Clone(good), 0), "unknown id": append([]byte{0, 0, 0, 1, 0}, good[5:]...), "no frame": []byte("{}"),
	} {
		if _, err := c.Decode(b); failure.KindOf(err) != failure.Poison || err == nil {
			t.Errorf("%s: %v, want a Poison failure", what, err)
		}
	}
}

// Whatever values their declared types admit come back as they went in.
func TestEventRoundTripAnyValues(t *testing.T) {
	c := openShop(t)
	other := eventReader(t, "OrderChanged")
	r, _ := shop().Resource("sales-order")
	rapid.Check(t, func(t *rapid.T) {
		ch := &event.Change{Resource: r.Name, ID: "1", Version: 1, Kind: event.Created, ReceivedAt: at}
		want := map[string]any{}
		for _, f := range r.Fields {
			v, err := f.Type.Coerce(draw(t, f.Name, f.Type))
			if err != nil {
				t.Fatal(err)
			}
			ch.After = append(ch.After, canonical.Named{Name: f.Name, Value: v})
			want[avroName(f.Name)] = v.Any()
		}
		b, err := c.Encode(PublicEvent{Change: ch, Ref: event.Ref{Type: "OrderChanged"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, rest, err := other.NativeFromBinary(b[5:]); err != nil || len(rest) > 0 {
			t.Fatalf("goavro: %v, %d bytes left", err, len(rest))
		}
		v, err := c.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, v.(*DecodedEvent).Data["entity"], cmpopts.EquateEmpty(), numbers(), absentAsNull()); d != "" {
			t.Fatal(d)
		}
	})
}

// numbers holds 2 and 2.0 for equal: a double that is integral is written as an integer.
func numbers() cmp.Option {
	float := func(v any) (float64, bool) {
		switch n := v.(type) {
		case int64:
			return float64(n), true
		case float64:
			return n, true
		case json.Number:
			f, err := n.Float64()
			return f, err == nil
		}
		return 0, false
	}
	return cmp.FilterValues(func(a, b any) bool {
		_, x := float(a)
		_, y := float(b)
		return x && y
	}, cmp.Comparer(func(a, b any) bool {
		x, _ := float(a)
		y, _ := float(b)
		return x == y
	}))
}

// absentAsNull holds a member without a value for equal to null.
func absentAsNull() cmp.Option {
	return cmpopts.IgnoreMapEntries(func(_ string, v any) bool { return v == nil })
}

func draw(t *rapid.T, name string, ty canonical.Type) any {
	if rapid.IntRange(0, 5).Draw(t, name+" is null") == 0 {
		return nil
	}
	switch ty.Kind {
	case canonical.KindInt:
		return rapid.Int64().Draw(t, name)
	case canonical.KindFloat:
		return rapid.Float64Range(-math.MaxFloat64, math.MaxFloat64).Draw(t, name)
	case canonical.KindDecimal:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?`).Draw(t, name)
	case canonical.KindBool:
		return rapid.Bool().Draw(t, name)
	case canonical.KindDate:
		return time.Unix(0, 0).UTC().AddDate(0, 0, rapid.IntRange(-700000, 2900000).Draw(t, name))
	case canonical.KindTimestamp:
		return time.UnixMicro(rapid.Int64Range(-62135596800000000, 253402300799999999).Draw(t, name))
	case canonical.KindBytes:
		return base64.StdEncoding.EncodeToString(rapid.SliceOf(rapid.Byte()).Draw(t, name))
	case canonical.KindEnum:
		return rapid.SampledFrom(ty.Symbols).Draw(t, name)
	case canonical.KindList:
		l := make([]any, rapid.IntRange(0, 3).Draw(t, name+" length"))
		for i := range l {
			l[i] = draw(t, name+" item", *ty.Elem)
		}
		return l
	case canonical.KindMap:
		m := map[string]any{}
		for range rapid.IntRange(0, 3).Draw(t, name+" size") {
			m[rapid.String().Draw(t, name+" key")] = draw(t, name+" value", *ty.Elem)
		}
		return m
	case canonical.KindRecord:
		m := map[string]any{}
		for _, f := range ty.Fields {
			m[f.Name] = draw(t, name+"."+f.Name, f.Type)
		}
		return m
	case canonical.KindJSON:
		return rapid.SampledFrom([]any{"text", true, map[string]any{"a": []any{1.5, "x"}}, []any{}, int64(5)}).Draw(t, name)
	}
	return rapid.String().Draw(t, name)
}

func TestHeaders(t *testing.T) {
	c := openShop(t)
	got := map[string]string{}
	for k, v := range c.Headers(shipped()) {
		got[k] = string(v)
	}
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	want := map[string]string{
		"ce_specversion": "1.0", "ce_id": "6ba7b810-9dad-51d1-80b4-00c04fd430c8", "ce_source": "/web-shop/sales-order", "ce_type": "web.shop.v1.OrderShipped",
		"ce_time": "2026-02-03T04:05:06.000789Z", "ce_subject": "SO-1", "ce_dataschema": c.registry.URL() + "/schemas/ids/2", "content-type": "application/avro",
		"ce_correlationid": "c-1", "ce_causationid": "web-shop:0:7", "ce_traceparent": trace, "traceparent": trace,
		"ce_sequence": "0000000000000000042", "ce_recordedtime": "2026-02-03T04:05:06.00079Z", "tenant": "acme",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	bare := c.Headers(PublicEvent{Change: &event.Change{ReceivedAt: at}, Ref: event.Ref{Type: "OrderShipped"}})
	if _, has := bare["ce_correlationid"]; has || string(bare["ce_time"]) != at.String() {
		t.Errorf("%v", bare)
	}
}

// A foreign schema with everything Avro has gives plain JSON values.
func TestReaderOfForeignSchemas(t *testing.T) {
	schema := `{"type":"record","name":"F","namespace":"n","fields":[
		{"name":"u","type":["null","int",{"type":"map","values":"float"},{"type":"enum","name":"E","symbols":["A","B"]}]},
		{"name":"u2","type":["null","E"]},
		{"name":"fixed","type":{"type":"fixed","name":"X","size":2}},
		{"name":"dec","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}},
		{"name":"tm","type":{"type":"int","logicalType":"time-millis"}},
		{"name":"id","type":["null",{"type":"string","logicalType":"uuid"}]},
		{"name":"raw","type":{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}},
		{"name":"span","type":{"type":"fixed","name":"D","size":12,"logicalType":"duration"}},
		{"name":"nan","type":"double"},
		{"name":"next","type":["null","F"]}]}`
	fake := srfake.New()
	defer fake.Close()
	r, err := NewRegistry(RegistryOptions{URL: fake.URL(), Patience: -1})
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.Register(t.Context(), "f", schema)
	if err != nil {
		t.Fatal(err)
	}
	s := avro.MustParse(schema)
	inner := map[string]any{"u": nil, "u2": nil, "fixed": []byte{0, 255}, "dec": "-1.50", "tm": 3723004 * time.Millisecond, "id": "9bc6a215-84b5-4865-a058-9156427c887a", "raw": "9bc6a215-84b5-4865-a058-9156427c887a", "span": avro.Duration{Months: 1, Days: 2}, "nan": math.Inf(-1), "next": nil}
	outer := map[string]any{"u": map[string]any{"map": map[string]float32{"k": 0.5}}, "u2": "B", "fixed": []byte{1, 2}, "dec": "2", "tm": time.Duration(0), "id": nil, "raw": [16]byte{1}, "span": avro.Duration{}, "nan": math.NaN(), "next": inner}
	b, err := s.AppendEncode(appendHeader(nil, id), outer)
	if err != nil {
		t.Fatal(err)
	}
	got, err := NewReader(r).Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"u": map[string]any{"k": 0.5}, "u2": "B", "fixed": "AQI=", "dec": "2.00", "tm": "00:00:00", "id": nil, "raw": "01000000-0000-0000-0000-000000000000", "span": "P0D", "nan": "NaN",
		"next": map[string]any{"u": nil, "u2": nil, "fixed": "AP8=", "dec": "-1.50", "tm": "01:02:03.004", "id": "9bc6a215-84b5-4865-a058-9156427c887a", "raw": "9bc6a215-84b5-4865-a058-9156427c887a", "span": "P1M2D", "nan": "-Infinity", "next": nil},
	}
	if d := cmp.Diff(want, got.Data); d != "" || got.Name != "n.F" || got.SchemaID != id {
		t.Errorf("%s %d: %s", got.Name, got.SchemaID, d)
	}
	if id, err = r.Register(t.Context(), "p", `"string"`); err != nil {
		t.Fatal(err)
	}
	if got, err := NewReader(r).Decode(append(appendHeader(nil, id), 2, 'x')); err != nil || got.Data["value"] != "x" {
		t.Errorf("%v, %v", got, err)
	}
}

// No bytes make the reader panic.
func FuzzReader(f *testing.F) {
	c := openShop(f)
	b, err := c.Encode(shipped())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 5 { // stay with a schema that there is
			data = append([]byte{0, 0, 0, 0, 2}, data[5:]...)
		}
		e, err := c.reader.Decode(data)
		if err != nil {
			if failure.KindOf(err) != failure.Poison {
				t.Fatalf("kind %s: %v", failure.KindOf(err), err)
			}
			return
		}
		if _, err := e.JSON(); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	c, e := openShop(b), shipped()
	framed, err := c.Encode(e)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Encode(e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Decode(framed); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestRegistryOptions(t *testing.T) {
	for _, c := range []struct {
		o    RegistryOptions
		want string
	}{
		{RegistryOptions{URL: "127.0.0.1:8081"}, "expected http://HOST:PORT"},
		{RegistryOptions{}, `found ""`},
		{RegistryOptions{URL: "http://h", Token: "t", Username: "u", Password: "p"}, "both a token and a user name"},
		{RegistryOptions{URL: "http://h", Username: "u"}, "alone"},
	} {
		if _, err := NewRegistry(c.o); err == nil || failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
	if _, err := NewRegistry(RegistryOptions{URL: "ftp://u:secret@h"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v, want an error without the password", err)
	}
	r, err := NewRegistry(RegistryOptions{URL: "http://u:secret@h:1/"})
	if err != nil || r.URL() != "http://h:1" {
		t.Errorf("%v, %v", r, err)
	}
}

func TestRegistryCredentials(t *testing.T) {
	for _, c := range []struct {
		o    RegistryOptions
		auth string
	}{
		{RegistryOptions{Username: "u", Password: "p"}, "Basic dTpw"},
		{RegistryOptions{Token: "t"}, "Bearer t"},
	} {
		fake := srfake.New(srfake.WithAuth(c.auth))
		c.o.URL, c.o.Patience = fake.URL(), -1
		r, err := NewRegistry(c.o)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Ready(); err != nil {
			t.Errorf("%s: %v", c.auth, err)
		}
		fake.Close()
	}
	// A refusal is Auth, whether it comes with a registry's body or a proxy's.
	for _, body := range []string{`{"error_code":40101,"message":"no"}`, `<html>`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(body))
		}))
		r, err := NewRegistry(RegistryOptions{URL: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Ping(t.Context()); failure.KindOf(err) != failure.Auth {
			t.Errorf("%v, want Auth at once", err)
		}
		s.Close()
	}
}

// While the registry is away, registration keeps trying and says so, with the
// address; when it is there, it goes on.
func TestRegistryRetries(t *testing.T) {
	fake := srfake.New()
	defer fake.Close()
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) <= 2 {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		fake.Handler().ServeHTTP(w, r)
	}))
	defer s.Close()
	var told []error
	r, err := NewRegistry(RegistryOptions{URL: s.URL, OnRetry: func(err error, _ time.Duration) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	p, err := OpenPlatform(t.Context(), r, []Binding{{Topic: "d.journal", Record: JournalEntry}, {Topic: "e.journal", Record: JournalEntry}})
	if err != nil || len(told) != 2 {
		t.Fatalf("%v after %v", err, told)
	}
	for _, err := range told {
		if failure.KindOf(err) != failure.Transient || !strings.Contains(err.Error(), "d.journal-value at "+s.URL) {
			t.Errorf("%v, want Transient with subject and URL", err)
		}
	}
	one, err := p.Codec("d.journal")
	if err != nil {
		t.Fatal(err)
	}
	two, err := p.Codec("e.journal")
	if err != nil {
		t.Fatal(err)
	}
	b, err := one.Encode(samples()[JournalEntry])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Decode(b); err != nil {
		t.Error(err)
	}
	if _, err := p.Codec("x"); failure.KindOf(err) != failure.NotFound {
		t.Errorf("%v, want NotFound", err)
	}
	before := calls.Load()
	if _, err := OpenPlatform(t.Context(), r, []Binding{{Topic: "d.journal", Record: JournalEntry}}); err != nil || calls.Load() != before {
		t.Errorf("%v, %d further requests for what is known", err, calls.Load()-before)
	}
	if _, err := OpenPlatform(t.Context(), r, []Binding{{Topic: "d.x", Record: "Wat"}}); failure.KindOf(err) != failure.Validation {
		t.Errorf("%v, want Validation", err)
	}
}

func TestRegistryUnreachable(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	url := s.URL
	s.Close()
	r, err := NewRegistry(RegistryOptions{URL: url, Patience: 150 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Register(t.Context(), "s", `"int"`); failure.KindOf(err) != failure.Transient || !strings.Contains(err.Error(), "s at "+url+": cannot reach the schema registry: ") {
		t.Errorf("%v, want Transient with the URL", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	forever, err := NewRegistry(RegistryOptions{URL: url, OnRetry: func(error, time.Duration) { cancel() }})
	if err != nil {
		t.Fatal(err)
	}
	if err := forever.Ping(ctx); err == nil || !strings.Contains(err.Error(), "cannot reach") {
		t.Errorf("%v, want the reason and not the cancellation", err)
	}
}

// Oracle: a conflict that is a race with another process is none the second
// time; one that stays is told.
func TestRegisterRace(t *testing.T) {
	var conflicts atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
		if conflicts.Add(-1) >= 0 {
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"error_code":409,"message":"An artifact with ID 's' in group 'null' already exists."}`))
			return
		}
		_, _ = w.Write([]byte(`{"id":7,"schema":"\"int\"","version":1,"subject":"s"}`))
	}))
	defer s.Close()
	for n, want := range map[int32]failure.Kind{1: "", 100: failure.Conflict} {
		r, err := NewRegistry(RegistryOptions{URL: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		conflicts.Store(n)
		id, err := r.Register(t.Context(), "s", `"int"`)
		if want == "" && (err != nil || id != 7) || want != "" && failure.KindOf(err) != want {
			t.Errorf("%d conflicts: id %d, %v", n, id, err)
		}
	}
}
