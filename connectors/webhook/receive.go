package webhook

import (
	"bytes"
	"fmt"
	"mime"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// maxVendorID bounds a sender's event id, which becomes part of a record key.
const maxVendorID = 256

// Receive verifies a delivery and gives the entry to journal. A signature that
// is missing, malformed, wrong or stale is a failure of kind Auth; an event id
// that cannot serve as one is of kind Validation. The body is not looked at: a
// body that cannot be read is journaled and fails later, so that it can be
// looked at and redriven.
func (s *Source) Receive(d connectors.Delivery) (*journal.Entry, error) {
	e := &journal.Entry{ContentType: d.Header.Get("Content-Type"), Body: d.Body, Headers: map[string]string{}}
	if s.check != nil {
		name, err := s.check.verify(d.Header, d.Body, d.Now)
		if err != nil {
			return nil, failure.Wrap(failure.Auth, "verify signature", "source "+s.name, err)
		}
		e.Signature = journal.Signature{Scheme: s.scheme, Verified: true, Secret: name}
	}
	for _, name := range s.keep {
		if v := d.Header.Values(name); len(v) > 0 {
			value := strings.Join(v, ", ")
			if len(value) > connectors.MaxHeaderValue || !utf8.ValidString(value) {
				return nil, failure.New(failure.Validation, "receive", "source "+s.name,
					"header %s: expected at most %d bytes of UTF-8", name, connectors.MaxHeaderValue)
			}
			e.Headers[strings.ToLower(name)] = value
		}
	}
	id := e.Headers[strings.ToLower(s.idHeader)]
	if len(id) > maxVendorID || strings.IndexFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		return nil, failure.New(failure.Validation, "receive", "source "+s.name,
			"header %s: expected an event id of at most %d printable characters", s.idHeader, maxVendorID)
	}
	if event := e.Headers[strings.ToLower(s.eventHeader)]; id != "" && s.idWithEvent && event != "" {
		id = event + "/" + id
	}
	e.VendorID = id
	return e, nil
}

// Decode gives the records of an entry: one, or with batch one per element.
// Whatever is wrong with the body is a failure of kind Validation.
func (s *Source) Decode(e *journal.Entry) ([]connectors.Record, error) {
	fail := func(format string, args ...any) error {
		return failure.New(failure.Validation, "decode body", "source "+s.name, format, args...)
	}
	body := bytes.TrimPrefix(e.Body, []byte("\ufeff"))
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, fail("the body is empty, expected JSON or a form")
	}
	headers := make(map[string]any, len(e.Headers))
	for k, v := range e.Headers {
		headers[k] = v
	}
	record := func(body any) connectors.Record {
		return connectors.Record{"body": body, "headers": headers, "event": e.Headers[strings.ToLower(s.eventHeader)]}
	}
	if s.batch == "lines" {
		return s.lines(body, record, fail)
	}
	v, err := s.value(e.ContentType, body)
	if err != nil {
		return nil, fail("%w", err)
	}
	list, isList := v.([]any)
	if s.batch == "array" {
		if !isList {
			return nil, fail("expected a JSON array (batch: array), found %s", describe(v))
		}
		out := make([]connectors.Record, len(list))
		for i, item := range list {
			out[i] = record(item)
		}
		return out, nil
	}
	if _, isMap := v.(map[string]any); !isMap && !isList {
		return nil, fail("expected a JSON object or array, found %s", describe(v))
	}
	return []connectors.Record{record(v)}, nil
}

func (s *Source) lines(body []byte, record func(any) connectors.Record, fail func(string, ...any) error) ([]connectors.Record, error) {
	var out []connectors.Record
	n := 0
	for line := range bytes.Lines(body) {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		v, err := connectors.DecodeJSON(line, s.maxDepth)
		if err != nil {
			return nil, fail("line %d: %w", n, err)
		}
		out = append(out, record(v))
	}
	return out, nil
}

// value reads a body by its content type: a form if it says so, else JSON.
func (s *Source) value(contentType string, body []byte) (any, error) {
	// A parameter that cannot be read does not change the media type.
	if media, _, _ := mime.ParseMediaType(contentType); media == "application/x-www-form-urlencoded" {
		return s.form(body)
	}
	return connectors.DecodeJSON(body, s.maxDepth)
}

// form reads an HTML form into a map from names to texts, or to lists where a
// name is repeated. A form that has nothing but a field "payload" is how
// GitHub and Slack wrap JSON, and stands for that JSON.
func (s *Source) form(body []byte) (any, error) {
	fields, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	if p := fields["payload"]; len(fields) == 1 && len(p) == 1 {
		return connectors.DecodeJSON([]byte(p[0]), s.maxDepth)
	}
	out := make(map[string]any, len(fields))
	for name, values := range fields {
		if !utf8.ValidString(name) {
			return nil, invalidText(name)
		}
		list := make([]any, len(values))
		for i, v := range values {
			if !utf8.ValidString(v) {
				return nil, invalidText(name)
			}
			list[i] = v
		}
		if out[name] = list; len(list) == 1 {
			out[name] = list[0]
		}
	}
	return out, nil
}

func invalidText(field string) error {
	return fmt.Errorf("form field %q: expected UTF-8", field)
}

// describe names the JSON type of a decoded value.
func describe(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return "a number"
}
