package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Mood is how a simulated back end behaves when it is asked for something.
type Mood string

// The moods.
const (
	Well        Mood = "well"
	Slow        Mood = "slow"         // it takes two seconds
	Fail        Mood = "fail"         // it answers 503
	Refuse      Mood = "refuse"       // it answers 422
	RateLimit   Mood = "rate-limit"   // it answers 429 to all but one call in a second
	Lie         Mood = "lie"          // it answers 200 and does nothing
	LoseAnswers Mood = "lose-answers" // it does what it is asked for, and hangs up
)

// Moods lists every mood.
func Moods() []Mood { return []Mood{Well, Slow, Fail, Refuse, RateLimit, Lie, LoseAnswers} }

// Desk is where the simulated back ends are asked for something over HTTP: each
// below its name, "/billing/accounts/B1001/suspend". What has been done for an
// idempotency key is not done again. PUT /<name>/mood {"mood": "fail"} tells one
// how to behave.
type Desk struct {
	secret func(ref string) (string, error)

	mu      sync.Mutex
	people  *customers // nil until they play
	moods   map[string]Mood
	done    map[string][]byte // answers by back end and key
	limited map[string]time.Time
}

// NewDesk makes a desk. secret gives the tokens that callers must show.
func NewDesk(secret func(ref string) (string, error)) *Desk {
	return &Desk{secret: secret, moods: map[string]Mood{}, done: map[string][]byte{}, limited: map[string]time.Time{}}
}

// Systems are the back ends that can be asked.
func Systems() []string { return []string{"billing", "crm", "marketing", "risk"} }

func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(object{"status": status, "detail": fmt.Sprintf(format, args...)}) // who has gone has gone
}

// ServeHTTP answers one request.
func (d *Desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	system := parts[0]
	known := false
	for _, s := range Systems() {
		known = known || s == system
	}
	if !known || len(parts) < 2 {
		refuse(w, http.StatusNotFound, "expected /<back end>/…, with one of %s", strings.Join(Systems(), ", "))
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return
	}
	if parts[1] == "mood" && len(parts) == 2 {
		d.mood(w, r, system, body)
		return
	}
	d.mu.Lock()
	mood := d.moods[system]
	limited := mood == RateLimit && time.Since(d.limited[system]) < time.Second
	if mood == RateLimit && !limited {
		d.limited[system] = time.Now()
	}
	d.mu.Unlock()
	switch {
	case mood == Fail:
		refuse(w, http.StatusServiceUnavailable, "%s is not well", system)
		return
	case mood == Refuse:
		refuse(w, http.StatusUnprocessableEntity, "%s does not do that", system)
		return
	case limited:
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "%s takes one call in a second", system)
		return
	case mood == Slow:
		select {
		case <-r.Context().Done():
			return
		case <-time.After(2 * time.Second):
		}
	}
	if system == "billing" {
		token, err := d.secret("env:TOUCHSTONE_SECRET_BILLING_API")
		if err != nil || r.Header.Get("Authorization") != "Bearer "+token {
			refuse(w, http.StatusUnauthorized, "expected the token of the billing system")
			return
		}
	}
	answer, status, after := d.do(system, r.Method, parts[1:], body, r.Header.Get("Idempotency-Key"), mood == Lie)
	if after != nil {
		// As the real ones do: what changed is told by webhook or change stream.
		go after()
	}
	if mood == LoseAnswers {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
		return
	}
	if status != http.StatusOK {
		refuse(w, status, "%s", answer)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer)
}

// mood tells a back end how to behave, or tells how it does.
func (d *Desk) mood(w http.ResponseWriter, r *http.Request, system string, body []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Method == http.MethodPut {
		var in struct{ Mood Mood }
		err := json.Unmarshal(body, &in)
		known := false
		for _, m := range Moods() {
			known = known || m == in.Mood
		}
		if err != nil || !known {
			refuse(w, http.StatusBadRequest, `found %s, expected {"mood": …} with one of %v`, body, Moods())
			return
		}
		d.moods[system] = in.Mood
	}
	if d.moods[system] == "" {
		d.moods[system] = Well
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object{"backEnd": system, "mood": d.moods[system]})
}

// do does what a back end is asked for. after tells the world.
func (d *Desk) do(system, method string, path []string, body []byte, key string, lie bool) (answer []byte, status int, after func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.people == nil {
		return []byte("nobody plays here"), http.StatusNotFound, nil
	}
	d.people.s.mu.Lock()
	defer d.people.s.mu.Unlock()
	key = system + " " + key
	if a, ok := d.done[key]; ok && method != http.MethodGet {
		return a, http.StatusOK, nil
	}
	var in object
	if len(body) > 0 {
		if err := json.Unmarshal(body, &in); err != nil {
			return []byte("the body is no JSON object"), http.StatusBadRequest, nil
		}
	}
	var x *customer
	if len(path) > 1 {
		x = d.people.find(path[1])
	}
	if x == nil {
		return []byte("there is nobody " + strings.Join(path, "/")), http.StatusNotFound, nil
	}
	c := d.people
	told := func(send func(ctx context.Context) error) func() {
		return func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			c.s.mu.Lock()
			defer c.s.mu.Unlock()
			if err := send(ctx); err != nil {
				c.s.Log.Warn("a simulated back end was not heard", "what", system, "error", err)
			}
		}
	}
	var out any
	switch verb := path[len(path)-1]; {
	case system == "risk" && method == http.MethodGet:
		return encode(object{"customer": x.number, "score": x.score}), http.StatusOK, nil
	case system == "billing" && method == http.MethodGet:
		return encode(object{"at": c.s.now().UTC().Format(time.RFC3339Nano), "account": c.account(x)}), http.StatusOK, nil
	case system == "billing" && (verb == "suspend" || verb == "open"):
		if !lie {
			x.state = map[string]string{"suspend": "blocked", "open": "open"}[verb]
			x.revision++
			after = told(func(ctx context.Context) error { return c.bill(ctx, x, "account.stateChanged") })
		}
		out = object{"at": c.s.now().UTC().Format(time.RFC3339Nano), "account": c.account(x)}
	case system == "crm" && verb == "notes":
		out = object{"note": fmt.Sprint("N", len(d.done)+1)}
	case system == "crm" && method == http.MethodPatch:
		before := clone(x.crm)
		for _, name := range []string{"status", "email", "phone"} {
			if v, ok := in[name]; ok && !lie {
				x.crm[name] = v
			}
		}
		out = clone(x.crm)
		if !lie {
			now := clone(x.crm)
			after = told(func(ctx context.Context) error { return c.capture(ctx, "u", before, now) })
		}
	case system == "marketing" && method == http.MethodPatch:
		if !lie {
			if v, ok := in["email"].(string); ok {
				x.email = v
			}
			if v, ok := in["consent"].(bool); ok {
				x.consent = v
			}
			after = told(func(ctx context.Context) error { return c.market(ctx, x) })
		}
		out = object{"contactId": fmt.Sprint("M", x.id), "email": x.email, "consent": x.consent}
	default:
		return []byte("nothing is done by " + method + " " + strings.Join(path, "/")), http.StatusNotFound, nil
	}
	answer = encode(out)
	if !lie {
		d.done[key] = answer
	}
	return answer, http.StatusOK, after
}

// play has the desk speak for the customers of a play.
func (d *Desk) play(c *customers) {
	d.mu.Lock()
	d.people = c
	d.mu.Unlock()
}

// urlPrefix is how references to the addresses of back ends begin; the name of
// the back end follows in capitals.
const urlPrefix = "env:TOUCHSTONE_URL_"

// Addresses resolves references to the addresses of back ends, such as
// env:TOUCHSTONE_URL_BILLING, to their places at a desk that serves at base. What
// is given otherwise comes first; other references are left to others.
func Addresses(base string, others func(ref string) (string, error)) func(ref string) (string, error) {
	return func(ref string) (string, error) {
		name, ok := strings.CutPrefix(ref, urlPrefix)
		if !ok {
			return others(ref)
		}
		if v := os.Getenv(strings.TrimPrefix(ref, "env:")); v != "" {
			return v, nil
		}
		return base + "/" + strings.ToLower(name), nil
	}
}
