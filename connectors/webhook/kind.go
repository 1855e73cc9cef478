// Package webhook is the kind of source that pushes deliveries over HTTP. It
// verifies the signature over the raw bytes, tells the sender's event id, and
// reads the body as JSON or as an HTML form.
//
// It does not listen, limit the size of bodies or undo content encodings: the
// HTTP door does that before it calls Receive.
package webhook

import "github.com/touchstone-platform/touchstone/connectors"

// Kind is the webhook kind; the zero value is ready.
type Kind struct{}

// Name is "webhook".
func (Kind) Name() string { return "webhook" }

// Doc in one sentence.
func (Kind) Doc() string {
	return "Deliveries pushed over HTTP, verified by their signature, with a JSON or form body."
}

// Variables that the records have.
func (Kind) Variables() []connectors.Variable {
	return []connectors.Variable{
		{Name: "body", Doc: "the decoded body: a map or a list; with batch, one element of it"},
		{Name: "headers", Doc: "map of the kept headers, by lower-case name; one that was not sent is absent"},
		{Name: "event", Doc: "value of the event header, a string; empty if it was not sent or none is declared"},
	}
}

// Settings that a source of this kind takes.
func (Kind) Settings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "batch", Form: "none | array | lines", Default: "none", Doc: "array: the body is a JSON array and each element is a record; lines: the body is JSON Lines and each line is a record"},
		{Key: "eventHeader", Form: "header name", Default: "of the scheme", Doc: "header that names the event type; it is kept and becomes the variable event"},
		{Key: "idHeader", Form: "header name", Default: "dedupe.header of the source, else of the scheme", Doc: "header that carries the sender's event id, by which copies are recognised; a delivery without it is recognised by its content"},
		{Key: "keepHeaders", Form: "list of header names", Default: "[]", Doc: "headers kept in the journal; headers that carry credentials or signatures are refused"},
		{Key: "maxDepth", Form: "int, 1 to 512", Default: "64", Doc: "deepest nesting of the body"},
		{Key: "scheme", Form: schemeForm, Default: "required", Doc: "how deliveries are signed; none takes unsigned deliveries and must be said explicitly"},
		{Key: "secrets", Form: "list of {name, ref}", Default: "required unless scheme is none", Doc: "live secrets: several are live while one replaces another, and the name of the one that matched is recorded; ref is a secret reference such as env:GITHUB_WEBHOOK_SECRET. A secret of standard-webhooks that starts with whpk_ is an ed25519 public key"},
		{Key: "signature.algorithm", Form: "sha256 | sha512 | sha1", Default: "sha256", Doc: "HMAC hash of scheme hmac; sha1 needs signature.allowWeak"},
		{Key: "signature.allowWeak", Form: "bool", Default: "false", Doc: "scheme hmac: permits sha1; scheme github: takes the legacy header X-Hub-Signature where X-Hub-Signature-256 is absent"},
		{Key: "signature.encoding", Form: "hex | base64", Default: "hex", Doc: "encoding of the signature of scheme hmac"},
		{Key: "signature.header", Form: "header name", Default: "required for scheme hmac", Doc: "header that carries the signature of scheme hmac"},
		{Key: "signature.payload", Form: "template of {body} and {timestamp}", Default: "{body}", Doc: "what scheme hmac signs, such as {timestamp}.{body}; {body} occurs once"},
		{Key: "signature.prefix", Form: "string", Default: "", Doc: "what stands before the signature in the header of scheme hmac, such as sha256="},
		{Key: "signature.secretEncoding", Form: "text | hex | base64", Default: "text", Doc: "how the secrets of scheme hmac spell their bytes"},
		{Key: "signature.timestampHeader", Form: "header name", Default: "", Doc: "header with the Unix time in seconds at which scheme hmac signed; the payload must then contain {timestamp}"},
		{Key: "signature.tolerance", Form: "duration", Default: "5m", Doc: "how far the signed timestamp may be from now, either way, in the schemes that sign one"},
	}
}

const schemeForm = "none | hmac | github | gitea | gocardless | shopify | slack | standard-webhooks | stripe"
