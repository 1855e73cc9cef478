package webhook

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/settings"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Source is a webhook opened for one source.
type Source struct {
	name        string
	scheme      string
	check       *verifier // nil for scheme none
	idHeader    string
	eventHeader string
	// idWithEvent: the sender repeats an event id across event types.
	idWithEvent bool
	keep        []string // canonical form, sorted, without duplicates
	batch       string
	maxDepth    int
}

// The headers in which senders put their event id and the event's type.
var presets = map[string]struct {
	id, event   string
	idWithEvent bool
}{
	"github": {id: "X-GitHub-Delivery", event: "X-GitHub-Event"},
	"gitea":  {id: "X-Gitea-Delivery", event: "X-Gitea-Event"},
	// One action of a merchant has one event id under every topic it causes.
	"shopify":           {id: "X-Shopify-Event-Id", event: "X-Shopify-Topic", idWithEvent: true},
	"standard-webhooks": {id: "Webhook-Id"},
}

// Open checks the settings of a source and resolves its secrets.
func (Kind) Open(src *definition.Source, secrets connectors.Secrets) (connectors.Connector, error) {
	r := settings.Read(src.Settings)
	s := &Source{name: src.Name}
	s.scheme = r.Choice("scheme", "", strings.Split(schemeForm, " | ")...)
	if !r.Has("scheme") {
		r.Missing("scheme", "one of "+strings.ReplaceAll(schemeForm, " | ", ", "))
	}
	preset := presets[s.scheme]
	s.batch = r.Choice("batch", "none", "none", "array", "lines")
	s.maxDepth = int(r.Int("maxDepth", connectors.DefaultDepth, 1, 512))
	s.eventHeader = header(r, "eventHeader", preset.event)
	s.idHeader = header(r, "idHeader", "")
	switch {
	case s.idHeader != "" && src.Dedupe.Header != "" && !strings.EqualFold(s.idHeader, src.Dedupe.Header):
		r.Wrong("idHeader", s.idHeader, "the same header as dedupe.header, which is "+src.Dedupe.Header)
	case s.idHeader == "" && src.Dedupe.Header != "":
		s.idHeader = http.CanonicalHeaderKey(src.Dedupe.Header)
	case s.idHeader == "":
		s.idHeader, s.idWithEvent = http.CanonicalHeaderKey(preset.id), preset.idWithEvent
	}
	s.keep = keepHeaders(r, s.eventHeader, s.idHeader)
	s.check = openVerifier(r, s.scheme, secrets)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

func header(r *settings.Reader, key, byDefault string) string {
	name := r.String(key, byDefault)
	if name != "" && !connectors.HeaderName(name) {
		r.Wrong(key, name, "a header name such as X-Event-Id")
	} else if connectors.Credential(name) {
		r.Wrong(key, name, "a header that carries no credential: its value is kept in the journal")
	}
	return http.CanonicalHeaderKey(name)
}

func keepHeaders(r *settings.Reader, always ...string) []string {
	var keep []string
	for i, name := range r.Strings("keepHeaders") {
		key := fmt.Sprintf("keepHeaders[%d]", i)
		switch {
		case !connectors.HeaderName(name):
			r.Wrong(key, name, "a header name such as X-Region")
		case connectors.Credential(name):
			r.Wrong(key, name, "a header that carries no credential or signature: the journal is read by many")
		default:
			keep = append(keep, http.CanonicalHeaderKey(name))
		}
	}
	for _, name := range always {
		if name != "" {
			keep = append(keep, name)
		}
	}
	slices.Sort(keep)
	return slices.Compact(keep)
}

var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

// openVerifier reads everything about signatures; nil for scheme none.
func openVerifier(r *settings.Reader, scheme string, secrets connectors.Secrets) *verifier {
	sig := r.Part("signature")
	v := &verifier{scheme: scheme, tolerance: sig.Duration("tolerance", 5*time.Minute)}
	weak := sig.Bool("allowWeak", false)
	secretEncoding := "text"
	switch scheme {
	case "hmac":
		secretEncoding = openGeneric(sig, v, weak)
	case "github":
		v.read = githubClaim(weak)
		v.payload = parsePayload("{body}")
	case "gitea":
		v.read = headerClaim("X-Gitea-Signature", "", hexMAC, "sha256", "")
		v.payload = parsePayload("{body}")
	case "gocardless":
		v.read = headerClaim("Webhook-Signature", "", hexMAC, "sha256", "")
		v.payload = parsePayload("{body}")
	case "shopify":
		v.read = headerClaim("X-Shopify-Hmac-Sha256", "", base64MAC, "sha256", "")
		v.payload = parsePayload("{body}")
	case "slack":
		v.read = headerClaim("X-Slack-Signature", "v0=", hexMAC, "sha256", "X-Slack-Request-Timestamp")
		v.payload = parsePayload("v0:{timestamp}:{body}")
	case "stripe":
		v.read = stripeClaim
		v.payload = parsePayload("{timestamp}.{body}")
	case "standard-webhooks":
		v.read = standardClaim
		v.payload = parsePayload("{id}.{timestamp}.{body}")
		secretEncoding = "standard-webhooks"
	}
	if scheme != "hmac" {
		for _, key := range []string{"algorithm", "encoding", "header", "payload", "prefix", "secretEncoding", "timestampHeader"} {
			if sig.Has(key) {
				sig.Wrong(key, sig.String(key, ""), "nothing: only scheme hmac takes it")
			}
		}
		if weak && scheme != "github" {
			sig.Wrong("allowWeak", true, "nothing: only schemes hmac and github take it")
		}
	}
	v.secrets = openSecrets(r, scheme, secretEncoding, secrets)
	if scheme == "none" || scheme == "" {
		return nil
	}
	return v
}

// openGeneric reads the settings of scheme hmac and tells how secrets are spelt.
func openGeneric(sig *settings.Reader, v *verifier, weak bool) string {
	name := sig.String("header", "")
	if !connectors.HeaderName(name) {
		if name == "" {
			sig.Missing("header", "the header that carries the signature")
		} else {
			sig.Wrong("header", name, "a header name such as X-Signature")
		}
	}
	stamp := sig.String("timestampHeader", "")
	if stamp != "" && !connectors.HeaderName(stamp) {
		sig.Wrong("timestampHeader", stamp, "a header name such as X-Timestamp")
	}
	algorithm := sig.Choice("algorithm", "sha256", "sha256", "sha512", "sha1")
	if algorithm == "sha1" && !weak {
		sig.Wrong("algorithm", algorithm, "sha256 or sha512; sha1 is weak and needs signature.allowWeak")
	}
	decode := hexMAC
	if sig.Choice("encoding", "hex", "hex", "base64") == "base64" {
		decode = base64MAC
	}
	template := sig.String("payload", "{body}")
	for _, p := range placeholder.FindAllString(template, -1) {
		if p != "{body}" && p != "{timestamp}" {
			sig.Wrong("payload", template, "only {body} and {timestamp} in braces")
		}
	}
	switch signsTime := strings.Contains(template, "{timestamp}"); {
	case strings.Count(template, "{body}") != 1:
		sig.Wrong("payload", template, "a template with {body} once")
	case signsTime && stamp == "":
		sig.Wrong("payload", template, "a template without {timestamp}, or signature.timestampHeader")
	case !signsTime && stamp != "":
		// An unsigned timestamp protects against nothing.
		sig.Wrong("timestampHeader", stamp, "{timestamp} in signature.payload, so that the time is signed")
	}
	v.read = headerClaim(name, sig.String("prefix", ""), decode, algorithm, stamp)
	v.payload = parsePayload(template)
	return sig.Choice("secretEncoding", "text", "text", "hex", "base64")
}

func openSecrets(r *settings.Reader, scheme, encoding string, resolve connectors.Secrets) []secret {
	parts := r.Parts("secrets")
	if scheme == "none" || scheme == "" {
		if len(parts) > 0 && scheme == "none" {
			r.Wrong("secrets", []any{}, "nothing: scheme none verifies no signature")
		}
		for _, p := range parts {
			p.Has("name")
			p.Has("ref")
		}
		return nil
	}
	if len(parts) == 0 {
		r.Missing("secrets", "a list of {name, ref} with at least one secret")
	}
	var out []secret
	names := map[string]bool{}
	for _, p := range parts {
		name, ref := p.String("name", ""), p.String("ref", "")
		if name == "" {
			p.Missing("name", "a name for the secret, which is recorded when it matches")
		} else if names[name] {
			p.Wrong("name", name, "a name that no other secret has")
		}
		names[name] = true
		if ref == "" {
			p.Missing("ref", "a secret reference such as env:GITHUB_WEBHOOK_SECRET")
			continue
		}
		if resolve == nil {
			p.Wrong("ref", ref, "a way to resolve secrets, which was not given")
			continue
		}
		value, err := resolve(ref)
		if err != nil {
			p.Wrong("ref", ref, "a secret that can be read: "+err.Error())
			continue
		}
		s, err := newSecret(name, value, encoding)
		if err != nil {
			// The value itself must not get into a message.
			p.Wrong("ref", ref, err.Error())
			continue
		}
		out = append(out, s)
	}
	return out
}

func newSecret(name, value, encoding string) (secret, error) {
	s := secret{name: name}
	var err error
	switch encoding {
	case "hex":
		s.key, err = hex.DecodeString(value)
	case "base64":
		s.key, err = base64.StdEncoding.DecodeString(value)
	case "standard-webhooks":
		if public, ok := strings.CutPrefix(value, "whpk_"); ok {
			s.public, err = base64.StdEncoding.DecodeString(public)
			if err != nil || len(s.public) != 32 {
				return s, fmt.Errorf("whpk_ and the base64 of an ed25519 public key of 32 bytes")
			}
			return s, nil
		}
		s.key, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(value, "whsec_"))
	default:
		s.key = []byte(value)
	}
	if err != nil {
		return s, fmt.Errorf("a secret spelt in %s", strings.Replace(encoding, "standard-webhooks", "base64, after an optional whsec_", 1))
	}
	if len(s.key) == 0 {
		return s, fmt.Errorf("a secret that is not empty: anybody can sign with an empty key")
	}
	return s, nil
}
