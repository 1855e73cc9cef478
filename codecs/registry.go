package codecs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/riferrei/srclient"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// RegistryOptions say how to reach a Confluent-compatible schema registry.
type RegistryOptions struct {
	// URL of the registry: "http://127.0.0.1:8081". A user and a password in it
	// are taken as Username and Password.
	URL string
	// Username and Password for basic authentication, or Token for a bearer
	// token; all empty for none.
	Username, Password, Token string
	// Timeout of one request; default 5 s.
	Timeout time.Duration
	// Patience is how long Register and Ping keep trying while the registry cannot be
	// reached; 0 means until their context ends, negative means one attempt.
	Patience time.Duration
	// OnRetry is told of each failed attempt and of the time until the next.
	// It must not block.
	OnRetry func(err error, wait time.Duration)
}

// Registry is a client of a schema registry. Schemas and ids never change once
// they are registered, so both are kept. It is safe for concurrent use.
type Registry struct {
	options RegistryOptions
	url     string // without credentials, for messages
	client  *srclient.SchemaRegistryClient

	mu  sync.RWMutex
	ids map[registration]int
}

type registration struct{ subject, schema string }

// NewRegistry makes a client. It does not connect. The error is a failure of kind
// Validation that says which option is wrong.
func NewRegistry(o RegistryOptions) (*Registry, error) {
	const op = "configure schema registry"
	u, err := url.Parse(o.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, failure.New(failure.Validation, op, "url", "found %q, expected http://HOST:PORT or https://…", redacted(o.URL))
	}
	if u.User != nil {
		password, _ := u.User.Password()
		o.Username, o.Password = u.User.Username(), password
		u.User = nil
	}
	switch {
	case o.Token != "" && (o.Username != "" || o.Password != ""):
		return nil, failure.New(failure.Validation, op, "credentials", "found both a token and a user name, expected one of them")
	case (o.Username == "") != (o.Password == ""):
		return nil, failure.New(failure.Validation, op, "credentials", "found a user name or a password alone, expected both or neither")
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	base := strings.TrimRight(u.String(), "/")
	c := srclient.NewSchemaRegistryClient(base, srclient.WithClient(&http.Client{Timeout: o.Timeout}))
	if o.Token != "" {
		c.SetBearerToken(o.Token)
	}
	if o.Username != "" {
		c.SetCredentials(o.Username, o.Password)
	}
	o.URL = ""
	return &Registry{options: o, url: base, client: c, ids: map[registration]int{}}, nil
}

// redacted hides the password of a URL that could not be used as it is.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		if strings.Contains(s, "@") {
			return "(not shown, it may hold a password)"
		}
		return s
	}
	return u.Redacted()
}

// URL is the registry's address without credentials.
func (r *Registry) URL() string { return r.url }

// maxConflicts is how many conflicts are taken for races with other processes.
const maxConflicts = 3

// Register makes sure that a schema is a version of subject and gives its id,
// which is the same for equal schemas. While the registry cannot be reached it
// tries again with growing waits, as RegistryOptions.Patience says. Failures:
// Transient if the registry was not reached in time, Auth if it refuses us,
// Conflict if the schema is incompatible with an earlier version (with the
// registry's reason), Validation if it is not a valid schema.
func (r *Registry) Register(ctx context.Context, subject, schema string) (int, error) {
	key := registration{subject, schema}
	r.mu.RLock()
	id, ok := r.ids[key]
	r.mu.RUnlock()
	if ok {
		return id, nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(schema)); err != nil {
		return 0, failure.Wrap(failure.Validation, "register schema", subject, err)
	}
	conflicts := 0
	id, err := retry(ctx, r, func() (int, error) {
		for {
			s, err := r.client.CreateSchema(subject, compact.String(), srclient.Avro)
			if err == nil {
				return s.ID(), nil
			}
			err = r.fail("register schema", subject, err)
			// Of processes that make a subject at the same moment, Apicurio
			// Registry tells all but one that it exists already. To be asked
			// again it gives the id, or a conflict that is one.
			if conflicts++; failure.KindOf(err) != failure.Conflict || conflicts > maxConflicts {
				return 0, err
			}
		}
	})
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	r.ids[key] = id
	r.mu.Unlock()
	return id, nil
}

// Schema gives the text of the schema with an id; it is asked for once. One
// attempt is made: callers are in the middle of a record and the engine knows
// when to try again. Failures: NotFound, Transient, Auth.
func (r *Registry) Schema(id int) (string, error) {
	s, err := r.client.GetSchema(id)
	if err != nil {
		return "", r.fail("look up schema", "id "+strconv.Itoa(id), err)
	}
	if t := s.SchemaType(); t != nil && *t != "" && *t != srclient.Avro {
		return "", failure.New(failure.Validation, "look up schema", "id "+strconv.Itoa(id), "found type %s, expected AVRO", *t)
	}
	return s.Schema(), nil
}

// Ping asks the registry for its default compatibility level, patiently as
// Register does.
func (r *Registry) Ping(ctx context.Context) error {
	_, err := retry(ctx, r, func() (struct{}, error) { return struct{}{}, r.Ready() })
	return err
}

// Ready is one attempt of Ping: for a readiness probe.
func (r *Registry) Ready() error {
	_, err := r.client.GetGlobalCompatibilityLevel()
	return r.fail("ask schema registry", "/config", err)
}

// retry calls f until it succeeds, fails for good, or patience or ctx ends.
func retry[T any](ctx context.Context, r *Registry, f func() (T, error)) (T, error) {
	if r.options.Patience < 0 {
		return f()
	}
	var last error
	waits := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: 5 * time.Second,
	}
	v, err := backoff.Retry(ctx, func() (T, error) {
		v, err := f()
		if last = err; err != nil && !failure.KindOf(err).Retryable() {
			return v, backoff.Permanent(err)
		}
		return v, err
	}, backoff.WithBackOff(waits), backoff.WithMaxElapsedTime(r.options.Patience), backoff.WithNotify(func(err error, wait time.Duration) {
		if r.options.OnRetry != nil {
			r.options.OnRetry(err, wait)
		}
	}))
	if err != nil && last != nil {
		// Not the context's error: what kept us from succeeding says more.
		err = last
	}
	return v, err
}

// fail turns the client's error into a failure that names the registry.
func (r *Registry) fail(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	where := subject + " at " + r.url
	var answer srclient.Error
	if !errors.As(err, &answer) {
		kind, message := status(err)
		if message != "" {
			return failure.New(kind, op, where, "%s", message)
		}
		return failure.New(failure.Transient, op, where, "cannot reach the schema registry: %w", reason(err))
	}
	message := answer.Message
	if message == "" {
		message = "the registry gave no message"
	}
	code := answer.Code
	if code >= 10000 { // 40901 and the like: the HTTP status and two digits
		code /= 100
	}
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return failure.New(failure.Auth, op, where, "the registry refuses our credentials (code %d): %s", answer.Code, message)
	case http.StatusNotFound:
		return failure.New(failure.NotFound, op, where, "%s (code %d)", message, answer.Code)
	case http.StatusConflict:
		return failure.New(failure.Conflict, op, where, "incompatible with an earlier version (code %d): %s", answer.Code, message)
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		return failure.New(failure.Validation, op, where, "the registry refuses the schema (code %d): %s", answer.Code, message)
	case http.StatusTooManyRequests:
		return failure.New(failure.RateLimited, op, where, "%s (code %d)", message, answer.Code)
	}
	return failure.New(failure.Transient, op, where, "the registry failed (code %d): %s", answer.Code, message)
}

// status reads the error that srclient makes of an answer that is not JSON, such
// as a proxy's: the HTTP status line.
func status(err error) (failure.Kind, string) {
	code, convErr := strconv.Atoi(strings.SplitN(err.Error(), " ", 2)[0])
	if convErr != nil || code < 300 || code > 599 {
		return "", ""
	}
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return failure.Auth, "refused: HTTP " + err.Error()
	case http.StatusTooManyRequests:
		return failure.RateLimited, "HTTP " + err.Error()
	case http.StatusNotFound:
		return failure.NotFound, "HTTP " + err.Error() + ", without the error body of a schema registry: is the URL that of one?"
	}
	return failure.Transient, "HTTP " + err.Error()
}

// reason strips the method and URL that net/http puts before the cause.
func reason(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
