package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// accepted answers a delivery that is in the journal.
type accepted struct {
	Journal     string `json:"journal"`
	Location    string `json:"location"`
	Correlation string `json:"correlation"`
}

// ingress takes one delivery: nothing is answered before it is durable.
func (a *API) ingress(w http.ResponseWriter, r *http.Request) error {
	src, err := a.source(mux.Vars(r)["source"])
	if err != nil {
		return err
	}
	if !src.Deliveries {
		return problem(http.StatusUnprocessableEntity, "wrong-intake", fmt.Sprintf("source %s takes no deliveries over HTTP; it is a %s source", src.Name, src.Connector))
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	body, err := a.delivery(w, r)
	if err != nil {
		return err
	}
	cause := envelope.Cause{Correlation: correlationOf(r.Header), Traceparent: traceparentOf(r.Context())}
	id, err := a.Door.Accept(r.Context(), Delivery{
		Delivery: connectors.Delivery{Header: r.Header, Body: body, Now: a.Now()},
		Domain:   src.Domain, Source: src.Name, Tenant: tenant, Cause: cause,
	})
	if err != nil {
		return err
	}
	if cause.Correlation == "" {
		cause.Correlation = id.String() // as the inbox has it
	}
	location := "/v1/deliveries/" + id.String()
	w.Header().Set("Location", location)
	w.Header().Set("Correlation-Id", cause.Correlation)
	return answer(w, http.StatusAccepted, accepted{id.String(), location, cause.Correlation})
}

// source finds a source by its name, or by "<domain>.<name>".
func (a *API) source(segment string) (Source, error) {
	var found []Source
	for _, s := range a.Sources {
		if s.Name == segment || s.Domain+"."+s.Name == segment {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return Source{}, problem(http.StatusNotFound, "unknown-source", fmt.Sprintf("no source is named %q; /v1/sources lists them", segment))
	case 1:
		return found[0], nil
	}
	names := make([]string, len(found))
	for i, s := range found {
		names[i] = s.Domain + "." + s.Name
	}
	return Source{}, problem(http.StatusConflict, "ambiguous-source", fmt.Sprintf("several domains have a source %q; use one of %s", segment, strings.Join(names, ", ")))
}

// correlationHeaders may carry the sender's correlation id, the first that is
// there counts.
var correlationHeaders = []string{"Correlation-Id", "X-Correlation-Id", "Ce-Correlationid", "Correlationid"}

// correlationOf gives the sender's correlation id: up to 128 visible ASCII
// characters. Anything else is treated as not given, since a delivery is not
// worth losing for it.
func correlationOf(h http.Header) string {
	for _, name := range correlationHeaders {
		if v := h.Get(name); v != "" && len(v) <= 128 && !strings.ContainsFunc(v, func(c rune) bool { return c < 0x21 || c > 0x7e }) {
			return v
		}
	}
	return ""
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// upload takes a file while it arrives. With "Accept: application/x-ndjson" it
// answers with a line per progress and a last line with the report or problem.
func (a *API) upload(w http.ResponseWriter, r *http.Request) error {
	src, err := a.source(mux.Vars(r)["source"])
	if err != nil {
		return err
	}
	if !src.Files {
		return problem(http.StatusUnprocessableEntity, "wrong-intake", fmt.Sprintf("source %s takes no files; it is a %s source", src.Name, src.Connector))
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	u := Upload{
		Domain: src.Domain, Source: src.Name, Tenant: tenant, ContentType: r.Header.Get("Content-Type"), Rows: -1,
		Cause: envelope.Cause{Correlation: correlationOf(r.Header), Traceparent: traceparentOf(r.Context())},
	}
	q, err := query(r, "name", "rows", "sha256", "sums")
	if err != nil {
		return err
	}
	if u.Name = q["name"]; u.Name == "" || len(u.Name) > 255 || strings.ContainsAny(u.Name, "/\\\x00\r\n") {
		return badQuery("name", fmt.Sprintf("found %q, expected the file's name without folders, up to 255 bytes", u.Name))
	}
	if s, ok := q["rows"]; ok {
		if u.Rows, err = strconv.ParseInt(s, 10, 64); err != nil || u.Rows < 0 {
			return badQuery("rows", fmt.Sprintf("found %q, expected the number of rows", s))
		}
	}
	if s, ok := q["sha256"]; ok {
		if u.SHA256 = strings.ToLower(s); !sha256Hex.MatchString(u.SHA256) {
			return badQuery("sha256", fmt.Sprintf("found %q, expected 64 hexadecimal digits", s))
		}
	}
	if s, ok := q["sums"]; ok {
		if err := json.Unmarshal([]byte(s), &u.Sums); err != nil {
			return badQuery("sums", fmt.Sprintf("found %q, expected a JSON object of column to decimal string", s))
		}
	}
	if u.Cause.Correlation == "" {
		u.Cause.Correlation = uuid.NewString()
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(a.Limits.ReadBody)) // for the gzip header
	body, err := a.stream(w, r, a.Limits.Upload)
	if err != nil {
		return err
	}
	u.Body = &rolling{from: body, control: control, within: a.Limits.ReadBody, limit: a.Limits.Upload}
	w.Header().Set("Correlation-Id", u.Cause.Correlation)

	lines := &progressLines{w: w, control: control, write: a.Limits.Write}
	progress := func(UploadProgress) {}
	if acceptsNDJSON(r.Header.Get("Accept")) {
		// Without it net/http reads the rest of the body before the first
		// byte of an answer.
		_ = control.EnableFullDuplex()
		progress = func(p UploadProgress) { lines.send(map[string]any{"progress": p}) }
	}
	report, err := a.Door.AcceptFile(r.Context(), u, progress)
	_ = control.SetWriteDeadline(time.Now().Add(a.Limits.Write))
	if err == nil && report.Refused != "" {
		err = refused(report)
	}
	if report.Errors == nil {
		report.Errors = []RowError{}
	}
	switch {
	case err != nil && lines.begun:
		p := *asProblem(err)
		p.Instance, p.TraceID = r.URL.EscapedPath(), traceIDOf(r.Context())
		lines.send(map[string]any{"problem": &p})
		return nil
	case err != nil:
		return err
	case lines.begun || acceptsNDJSON(r.Header.Get("Accept")):
		lines.send(map[string]any{"report": report})
		return nil
	}
	return answer(w, http.StatusAccepted, report)
}

// refused tells of a file of which no row was taken.
func refused(report UploadReport) *Problem {
	p := problem(http.StatusUnprocessableEntity, "file-refused", report.Refused)
	for _, e := range report.Errors {
		pointer := "#/rows/" + strconv.FormatInt(e.Row, 10)
		if e.Column != "" {
			pointer += "/" + e.Column
		}
		p.at(pointer, e.Reason)
	}
	return p
}

func acceptsNDJSON(accept string) bool {
	return strings.Contains(strings.ToLower(accept), "application/x-ndjson")
}

// progressLines writes one JSON text a line and sends each at once.
type progressLines struct {
	w       http.ResponseWriter
	control *http.ResponseController
	write   time.Duration
	begun   bool
}

func (l *progressLines) send(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return // our own types always encode
	}
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.Header().Set("Cache-Control", "no-store")
		l.w.WriteHeader(http.StatusAccepted)
	}
	_ = l.control.SetWriteDeadline(time.Now().Add(l.write))
	// A client that went away is noticed by the read of its body.
	_, _ = l.w.Write(append(b, '\n'))
	_ = l.control.Flush()
}
