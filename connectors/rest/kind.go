// Package rest is the kind of back end that is asked over HTTP with JSON. What is
// sent and what is made of the answer is said by expressions in the definition.
//
// It does not try again, limit rates or break circuits: the executor does.
package rest

import "github.com/touchstone-platform/touchstone/connectors"

// Kind is the rest kind; the zero value is ready.
type Kind struct{}

// Name is "rest".
func (Kind) Name() string { return "rest" }

// Doc in one sentence.
func (Kind) Doc() string {
	return "A back end that is asked over HTTP, with JSON bodies, in any of the usual ways to prove who asks."
}

// Settings of a connection.
func (Kind) Settings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "auth.clientId", Form: "string", Default: "required for oauth2", Doc: "client id for client credentials (RFC 6749, 4.4)"},
		{Key: "auth.header", Form: "header name", Default: "X-API-Key for apiKey, X-Signature for hmac", Doc: "header that carries the key, or the signature"},
		{Key: "auth.prefix", Form: "string", Default: "", Doc: "what stands before the key or the signature, such as sha256="},
		{Key: "auth.scheme", Form: authForm, Default: "none", Doc: "how the back end knows who asks; hmac signs the body, or {timestamp}.{body} with auth.timestampHeader"},
		{Key: "auth.scopes", Form: "list of strings", Default: "[]", Doc: "scopes that oauth2 asks for"},
		{Key: "auth.secret", Form: "secret reference", Default: "required unless scheme is none", Doc: "the password, token, key or client secret, such as env:TOUCHSTONE_SECRET_BILLING"},
		{Key: "auth.timestampHeader", Form: "header name", Default: "", Doc: "header for the Unix time in seconds that hmac signs with the body"},
		{Key: "auth.tokenUrl", Form: "URL", Default: "required for oauth2", Doc: "where oauth2 gets its tokens"},
		{Key: "auth.user", Form: "string", Default: "required for basic", Doc: "user of basic authentication"},
		{Key: "headers", Form: "map of strings", Default: "{}", Doc: "headers of every request"},
		{Key: "idempotencyHeader", Form: "header name", Default: "Idempotency-Key", Doc: "header for the idempotency key of calls to idempotent operations; - for none"},
		{Key: "maxResponse", Form: "int, 1 to 67108864", Default: "1048576", Doc: "largest answer in bytes"},
		{Key: "tls.ca", Form: "secret reference", Default: "", Doc: "PEM certificates that the back end's is checked against; else those of the system"},
		{Key: "tls.certificate", Form: "secret reference", Default: "", Doc: "PEM certificate that is shown to the back end (mutual TLS)"},
		{Key: "tls.key", Form: "secret reference", Default: "", Doc: "PEM key of tls.certificate"},
		{Key: "url", Form: "URL, or a secret reference to one", Default: "required", Doc: "where the back end is; the paths of operations come behind it"},
	}
}

// OperationSettings are those of one operation.
func (Kind) OperationSettings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "body", Form: "expression over args, key", Default: "args, but for GET, HEAD and DELETE", Doc: "what is sent as JSON"},
		{Key: "errors", Form: "list of {when, kind, detail}", Default: "[]", Doc: "what answers mean that are not what their status says; the first whose when holds (over status, headers, body, args) gives the kind of failure, or the kind none: it is no failure"},
		{Key: "headers", Form: "map of expressions over args, key", Default: "{}", Doc: "headers of the request; one that is missing is left out"},
		{Key: "method", Form: "GET | HEAD | POST | PUT | PATCH | DELETE", Default: "POST", Doc: "method"},
		{Key: "output", Form: "expression over status, headers, body, args", Default: "body", Doc: "what later steps see of the answer"},
		{Key: "pages.items", Form: "expression over status, headers, body", Default: "", Doc: "the items of one page of a list; the output is then {items: [...]} with those of all pages"},
		{Key: "pages.max", Form: "int, 1 to 10000", Default: "100", Doc: "most pages that are read"},
		{Key: "pages.next", Form: "expression over status, headers, body", Default: "", Doc: "URL of the next page, absolute or below url; null, empty or missing at the last"},
		{Key: "path", Form: "expression over args, key", Default: "required", Doc: "path behind url; join what comes from outside with urlPart(...)"},
		{Key: "query", Form: "map of expressions over args, key", Default: "{}", Doc: "query parameters; one that is missing is left out"},
		{Key: "success", Form: "list of statuses", Default: "[]", Doc: "statuses besides 2xx that are no failure, such as 404 of a deletion"},
	}
}

const authForm = "none | basic | bearer | apiKey | oauth2 | hmac"
