package simulate

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// customer is what each system knows of one customer; they do not agree.
type customer struct {
	id                  int
	number, first, last string
	crm                 object
	crmEmail, email     string
	street, city        string
	state               string
	balance             int // cents
	consent             bool
	revision, score     int
}

type customers struct {
	s    *stage
	list []*customer
}

// find gives the customer that a system calls so: 1001, B1001, M1001 or C-1001.
func (c *customers) find(id string) *customer {
	for _, x := range c.list {
		for _, name := range []string{"%d", "B%d", "M%d", "C-%d"} {
			if fmt.Sprintf(name, x.id) == id {
				return x
			}
		}
	}
	return nil
}

func newCustomers(s *stage) *customers {
	c := &customers{s: s}
	for i, p := range []struct{ first, last, city, street, status string }{
		{"Ada", "Lindqvist", "Uppsala", "Storgatan 4", "CUSTOMER"},
		{"Bruno", "Okafor", "Lisboa", "Rua do Carmo 11", "CUSTOMER"},
		{"Chiara", "Moretti", "Torino", "Via Po 27", "LEAD"},
		{"Dmitri", "Halonen", "Tampere", "Hämeenkatu 9", "CUSTOMER"},
		{"Elif", "Yıldız", "İzmir", "Kıbrıs Şehitleri 40", "LEAD"},
		{"Fatou", "Diarra", "Lyon", "Rue Mercière 5", "CUSTOMER"},
	} {
		x := &customer{
			id: 1001 + i, number: fmt.Sprintf("C-%d", 1001+i), first: p.first, last: p.last, street: p.street, city: p.city,
			state: "open", balance: s.rng.IntN(50000), consent: i%2 == 0, score: 700 - 80*i,
		}
		x.email = strings.ToLower(p.first) + "@example.com"
		x.crmEmail = "  " + p.first + "." + strings.ReplaceAll(p.last, " ", "") + "@Example.com"
		x.crm = object{
			"id": x.id, "customer_number": x.number, "first_name": x.first, "last_name": x.last, "email": x.crmEmail,
			"phone": fmt.Sprintf("+46 %03d-%04d", s.rng.IntN(1000), s.rng.IntN(10000)), "segment": pick(s, []string{"PRIVATE", "BUSINESS"}),
			"account_manager": pick(s, []string{"Noor", "Sam", "Wei"}), "since": 18000 + s.rng.IntN(1500), "status": p.status,
			"street": "c/o " + p.first, "zip": fmt.Sprintf("%05d", s.rng.IntN(100000)), "city": p.city, "country": "se",
			"interests": "sailing, books", "language": "sv",
		}
		c.list = append(c.list, x)
	}
	return c
}

// opening lets every system speak of every customer once.
func (c *customers) opening() []scene {
	var out []scene
	for _, x := range c.list {
		out = append(out,
			scene{"crm snapshot", func(ctx context.Context) error { return c.capture(ctx, "r", nil, x.crm) }},
			scene{"billing account opened", func(ctx context.Context) error { return c.bill(ctx, x, "account.opened") }},
			scene{"marketing contact", func(ctx context.Context) error { return c.market(ctx, x) }},
		)
	}
	return append(out, scene{"credit file", func(ctx context.Context) error { return c.rate(ctx) }})
}

// next lets one system say something.
func (c *customers) next() scene {
	s, x := c.s, pick(c.s, c.list)
	switch s.rng.IntN(12) {
	case 0, 1, 2:
		return scene{"invoice or payment", func(ctx context.Context) error {
			x.balance += s.rng.IntN(20000) - 9000
			return c.bill(ctx, x, "account.balanceChanged")
		}}
	case 3:
		return scene{"dunning or payment", func(ctx context.Context) error {
			if x.state == "open" {
				x.state = "dunning"
			} else {
				x.state = "open"
			}
			return c.bill(ctx, x, "account.stateChanged")
		}}
	case 4, 5:
		return scene{"new e-mail address in marketing", func(ctx context.Context) error {
			x.email = fmt.Sprintf("%s.%d@example.com", strings.ToLower(x.first), s.rng.IntN(100))
			return c.market(ctx, x)
		}}
	case 6:
		return scene{"marketing says the same again", func(ctx context.Context) error { return c.market(ctx, x) }}
	case 7, 8:
		return scene{"crm edit", func(ctx context.Context) error {
			before := clone(x.crm)
			x.crm["account_manager"] = pick(s, []string{"Noor", "Sam", "Wei"})
			if s.rng.IntN(2) == 0 {
				x.crm["phone"] = fmt.Sprintf("+46 %03d-%04d", s.rng.IntN(1000), s.rng.IntN(10000))
			}
			return c.capture(ctx, "u", before, x.crm)
		}}
	case 9:
		return scene{"crm moves a lead", func(ctx context.Context) error {
			before := clone(x.crm)
			x.crm["status"] = "CUSTOMER"
			return c.capture(ctx, "u", before, x.crm)
		}}
	case 10:
		return scene{"crm edits an e-mail that is marketing's to decide", func(ctx context.Context) error {
			before := clone(x.crm)
			x.crm["email"] = fmt.Sprintf("%s%d@old.example", x.first, s.rng.IntN(100))
			return c.capture(ctx, "u", before, x.crm)
		}}
	}
	return scene{"credit file", func(ctx context.Context) error { return c.rate(ctx) }}
}

func clone(o object) object {
	c := make(object, len(o))
	for k, v := range o {
		c[k] = v
	}
	return c
}

// capture writes a change as Debezium's PostgreSQL connector does.
func (c *customers) capture(ctx context.Context, op string, before, after object) error {
	now := c.s.now().UnixMilli()
	c.s.count++
	value := object{
		"before": before, "after": after, "op": op, "ts_ms": now, "transaction": nil,
		"source": object{
			"version": "3.0.0.Final", "connector": "postgresql", "name": "crm", "ts_ms": now, "snapshot": strconv.FormatBool(op == "r"),
			"db": "crm", "schema": "public", "table": "customers", "txId": c.s.count, "lsn": now*100 + int64(c.s.count%100),
		},
	}
	return c.s.produce(ctx, "crm.public.customers", object{"id": after["id"]}, value)
}

// account is one as the billing system tells it.
func (c *customers) account(x *customer) object {
	return object{
		"id": fmt.Sprintf("B%d", x.id), "customerNumber": x.number, "holder": strings.ToUpper(x.first + " " + x.last),
		"invoiceEmail": x.crmEmail[2:], "openedOn": "2021-03-01", "state": x.state, "revision": x.revision,
		"address": object{"street": x.street, "postalCode": fmt.Sprintf("%05d", x.id), "city": x.city, "country": "SE"},
		"balance": fmt.Sprintf("%d.%02d", x.balance/100, abs(x.balance%100)), "currency": "SEK", "paymentTermDays": 30,
	}
}

// bill sends a delivery of the billing system, signed with HMAC.
func (c *customers) bill(ctx context.Context, x *customer, what string) error {
	x.revision++
	body := encode(object{"type": what, "at": c.s.now().UTC().Format(time.RFC3339Nano), "account": c.account(x)})
	secret, err := c.s.Secret("env:TOUCHSTONE_SECRET_BILLING")
	if err != nil {
		return err
	}
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	return c.s.post(ctx, "/v1/ingress/billing", body, map[string]string{
		"X-Billing-Event": c.s.id("evt"), "X-Billing-Signature": "sha256=" + hex.EncodeToString(m.Sum(nil)),
	})
}

// market sends a delivery of the marketing platform (Standard Webhooks).
func (c *customers) market(ctx context.Context, x *customer) error {
	body := encode(object{
		"type": "contact.updated", "timestamp": c.s.now().UTC().Format(time.RFC3339Nano),
		"data": object{
			"contactId": fmt.Sprintf("M%d", x.id), "customerNumber": x.number, "email": x.email,
			"consent": x.consent, "interests": []string{"books", "cooking"}, "language": "en",
		},
	})
	secret, err := c.s.Secret("env:TOUCHSTONE_SECRET_MARKETING")
	if err != nil {
		return err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return fmt.Errorf("TOUCHSTONE_SECRET_MARKETING: expected whsec_ and base64: %w", err)
	}
	id, ts := c.s.id("msg"), strconv.FormatInt(c.s.now().Unix(), 10)
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.%s", id, ts, body)
	return c.s.post(ctx, "/v1/ingress/marketing", body, map[string]string{
		"Webhook-Id": id, "Webhook-Timestamp": ts, "Webhook-Signature": "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil)),
	})
}

// rate uploads the credit agency's file; one row in it is broken, as ever.
func (c *customers) rate(ctx context.Context) error {
	var b strings.Builder
	b.WriteString("customer_no;score;rating;as_of\n")
	for _, x := range c.list {
		score := 300 + c.s.rng.IntN(700)
		fmt.Fprintf(&b, "%s;%d;%s;%s\n", x.number, score, string("DCBA"[(score-300)/175]), c.s.now().UTC().Format(time.DateOnly))
	}
	fmt.Fprintf(&b, "C-1999;not known;A;%s\n", c.s.now().UTC().Format(time.DateOnly))
	return c.s.post(ctx, "/v1/ingress/risk/files?name="+c.s.id("scores")+".csv", []byte(b.String()), map[string]string{"Content-Type": "text/csv"})
}

func abs(n int) int { return max(n, -n) }
