package simulate

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// order is one order on its way; step is how far it has come.
type order struct {
	number  string
	step    int
	version int
	sku     string
	total   int // cents
	promise time.Time
}

type orders struct {
	s    *stage
	list []*order
	last int
}

func newOrders(s *stage) *orders { return &orders{s: s, last: 70000 + int(s.now().Unix()%10000)} }

// opening places two orders and pays one.
func (o *orders) opening() []scene {
	a, b := o.place(), o.place()
	return []scene{
		{"order placed", func(ctx context.Context) error { return o.shop(ctx, a) }},
		{"order placed", func(ctx context.Context) error { return o.shop(ctx, b) }},
		o.advance(a),
	}
}

func (o *orders) place() *order {
	o.last++
	x := &order{number: strconv.Itoa(o.last), sku: pick(o.s, []string{"kettle-2", "lamp-7", "chair-1"}), total: 1000 + o.s.rng.IntN(30000), promise: o.s.now().AddDate(0, 0, 4)}
	o.list = append(o.list, x)
	return x
}

// next places a new order, or moves one on.
func (o *orders) next() scene {
	open := o.list[:0]
	for _, x := range o.list {
		if x.step < 4 {
			open = append(open, x)
		}
	}
	o.list = open
	if len(o.list) < 2 || len(o.list) < 6 && o.s.rng.IntN(3) == 0 {
		x := o.place()
		return scene{"order placed", func(ctx context.Context) error { return o.shop(ctx, x) }}
	}
	return o.advance(pick(o.s, o.list))
}

// advance moves an order through its life: paid, picked, shipped, delivered.
func (o *orders) advance(x *order) scene {
	x.step++
	switch x.step {
	case 1:
		return scene{"payment", func(ctx context.Context) error { return o.pay(ctx, x) }}
	case 2:
		return scene{"picked", func(ctx context.Context) error { return o.pickList(ctx, x, "PICKED") }}
	case 3:
		return scene{"collected by the carrier", func(ctx context.Context) error { return o.scan(ctx, x, "COLLECTED", "Depot Nord") }}
	}
	return scene{"delivered", func(ctx context.Context) error { return o.scan(ctx, x, "DELIVERED", "front door") }}
}

func (o *orders) secret(ref string) ([]byte, error) {
	v, err := o.s.Secret(ref)
	return []byte(v), err
}

func (o *orders) shop(ctx context.Context, x *order) error {
	x.version++
	now := o.s.now().UTC()
	body := encode(object{"order": object{
		"id": "S" + x.number, "number": x.number, "version": x.version, "state": "new", "updatedAt": now.Format(time.RFC3339Nano), "createdAt": now.Format(time.RFC3339Nano),
		"customer": object{"number": "C-1001"}, "total": money(x.total), "currency": "SEK", "payment": "card", "promisedOn": x.promise.Format(time.DateOnly),
		"items": []object{{"sku": x.sku, "qty": 1, "price": money(x.total), "options": object{"colour": "green"}}}, "tags": []string{"Web"},
	}})
	key, err := o.secret("env:TOUCHSTONE_SECRET_SHOP")
	if err != nil {
		return err
	}
	ts := strconv.FormatInt(o.s.now().Unix(), 10)
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s", ts, body)
	return o.s.post(ctx, "/v1/ingress/shop", body, map[string]string{
		"X-Shop-Delivery": o.s.id("dlv"), "X-Shop-Timestamp": ts, "X-Shop-Signature": hex.EncodeToString(m.Sum(nil)),
	})
}

func (o *orders) pay(ctx context.Context, x *order) error {
	body := encode(object{
		"id": o.s.id("evt"), "type": "charge.succeeded", "created": o.s.now().Unix(),
		"data": object{"object": object{
			"id": "ch_" + x.number, "amount": x.total, "currency": "sek", "metadata": object{"order_number": x.number},
			"payment_method_details": object{"type": "card"},
		}},
	})
	key, err := o.secret("env:TOUCHSTONE_SECRET_PAYMENTS")
	if err != nil {
		return err
	}
	ts := strconv.FormatInt(o.s.now().Unix(), 10)
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s", ts, body)
	return o.s.post(ctx, "/v1/ingress/payments", body, map[string]string{"Stripe-Signature": "t=" + ts + ",v1=" + hex.EncodeToString(m.Sum(nil))})
}

func (o *orders) pickList(ctx context.Context, x *order, step string) error {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return err
	}
	line := encode(object{
		"pickList": "P" + x.number, "order": x.number, "step": step, "at": o.s.now().In(zone).Format(time.DateTime),
		"positions": []object{{"article": x.sku, "picked": 1}}, "weight": 800 + o.s.rng.IntN(4000), "flags": []string{"fragile"}, "dock": "D3",
	})
	return o.s.post(ctx, "/v1/ingress/warehouse/files?name="+o.s.id("picks")+".jsonl", append(line, '\n'), map[string]string{"Content-Type": "application/x-ndjson"})
}

func (o *orders) scan(ctx context.Context, x *order, event, place string) error {
	body := encode(object{"scans": []object{{
		"parcel": "PX" + x.number, "reference": x.number, "event": event, "place": place, "at": o.s.now().UTC().Format(time.RFC3339Nano),
		"weight": 1000 + o.s.rng.IntN(4000), "eta": object{"day": x.promise.AddDate(0, 0, o.s.rng.IntN(2)).Format(time.DateOnly), "time": x.promise.UTC().Format(time.RFC3339)},
	}}})
	key, err := o.secret("env:TOUCHSTONE_SECRET_CARRIER")
	if err != nil {
		return err
	}
	m := hmac.New(sha256.New, key)
	m.Write(body)
	return o.s.post(ctx, "/v1/ingress/carrier", body, map[string]string{"X-Carrier-Signature": base64.StdEncoding.EncodeToString(m.Sum(nil))})
}

func money(cents int) string { return fmt.Sprintf("%d.%02d", cents/100, cents%100) }
