// Package client is a typed client of Touchstone's HTTP API, for the command
// line. Its types are the API's answers as a reader needs them; a test holds
// them against the API itself.
//
// It does not retry, cache or print: a command decides what an error means.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// maxAnswer bounds an answer that is read as a whole, in bytes.
const maxAnswer = 64 << 20

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	base *url.URL
	http *http.Client
}

// New makes a client of the server at a URL such as http://127.0.0.1:8080; a
// path in it is put before every path of the API. A nil h is one without a
// timeout: calls end with their context.
func New(server string, h *http.Client) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server address: found %q, expected a URL such as http://127.0.0.1:8080", server)
	}
	if h == nil {
		h = &http.Client{}
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	u.RawPath = ""
	return &Client{base: u, http: h}, nil
}

// Server is the URL that the client was made with.
func (c *Client) Server() string { return c.base.Redacted() }

// Problem is an error that the server told (RFC 9457).
type Problem struct {
	Type     string  `json:"type"`
	Title    string  `json:"title"`
	Status   int     `json:"status"`
	Detail   string  `json:"detail"`
	Instance string  `json:"instance"`
	Code     string  `json:"code"`
	TraceID  string  `json:"traceId"`
	Errors   []Place `json:"errors"`
}

// Place is one thing that is wrong and where.
type Place struct {
	Detail  string `json:"detail"`
	Pointer string `json:"pointer"`
}

// Error reads "title: detail".
func (p *Problem) Error() string {
	title := p.Title
	if title == "" {
		title = http.StatusText(p.Status)
	}
	if title == "" {
		title = fmt.Sprintf("status %d", p.Status)
	}
	if p.Detail == "" {
		return title
	}
	return title + ": " + p.Detail
}

// ProblemCode gives the code of the problem in err's chain; "" if there is none.
func ProblemCode(err error) string {
	var p *Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// Unreachable says that no answer came from a server.
type Unreachable struct {
	Server string
	Err    error
}

// Error names the server and the cause.
func (u *Unreachable) Error() string {
	cause := u.Err
	// net/url repeats method and URL, which say nothing more.
	var e *url.Error
	if errors.As(cause, &e) {
		cause = e.Err
	}
	return fmt.Sprintf("no answer from %s: %v", u.Server, cause)
}

// Unwrap gives the cause.
func (u *Unreachable) Unwrap() error { return u.Err }

// request makes a request to the path of segments, each escaped by itself.
func (c *Client) request(ctx context.Context, method string, segments []string, query url.Values, body io.Reader) (*http.Request, error) {
	u := *c.base
	path := u.EscapedPath()
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, fmt.Errorf("path %s: %w", path, err)
	}
	u.Path, u.RawPath, u.RawQuery = plain, path, query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "touchstone-cli")
	return r, nil
}

// do sends a request. Statuses other than 2xx are Problems; no answer at all
// is Unreachable, unless the context ended.
func (c *Client) do(r *http.Request) (*http.Response, error) {
	a, err := c.http.Do(r)
	if err != nil {
		if cause := r.Context().Err(); cause != nil {
			return nil, cause
		}
		return nil, &Unreachable{Server: c.Server(), Err: err}
	}
	if a.StatusCode >= 200 && a.StatusCode < 300 {
		return a, nil
	}
	defer a.Body.Close()
	return nil, problemOf(a)
}

// problemOf reads a problem. An answer of another form, such as a proxy's
// page, gives a problem that says so.
func problemOf(a *http.Response) error {
	p := &Problem{}
	media, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
	body, _ := io.ReadAll(io.LimitReader(a.Body, 1<<20))
	if media != "application/problem+json" || json.Unmarshal(body, p) != nil {
		p = &Problem{Detail: fmt.Sprintf("%s answered with %q instead of a problem; is it Touchstone's API?", a.Request.URL.Redacted(), a.Header.Get("Content-Type"))}
	}
	if p.Status == 0 {
		p.Status = a.StatusCode
	}
	if p.Title == "" {
		p.Title = http.StatusText(a.StatusCode)
	}
	return p
}

// get reads a JSON answer.
func (c *Client) get(ctx context.Context, into any, query url.Values, segments ...string) error {
	r, err := c.request(ctx, http.MethodGet, segments, query, nil)
	if err != nil {
		return err
	}
	return c.answer(r, into)
}

// answer sends a request and reads its JSON answer.
func (c *Client) answer(r *http.Request, into any) error {
	ctx := r.Context()
	r.Header.Set("Accept", "application/json")
	a, err := c.do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &Unreachable{Server: c.Server(), Err: fmt.Errorf("the answer broke off: %w", err)}
	case len(body) > maxAnswer:
		return fmt.Errorf("%s: the answer is longer than %d bytes", r.URL.Redacted(), maxAnswer)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: the answer is not what was expected: %w; it begins %q", r.URL.Redacted(), err, bytes.TrimSpace(body[:min(len(body), 80)]))
	}
	return nil
}
