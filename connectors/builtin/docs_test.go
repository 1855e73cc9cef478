package builtin_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
)

var update = flag.Bool("update", false, "rewrite docs/connectors.md")

// docs/connectors.md is made of what the kinds say of themselves, so that it
// cannot say anything else.
func TestReference(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`# Connectors

A source of a domain names its connector and gives it settings. The connector verifies a delivery, says what identifies it, and turns it into records whose variables the mapping rules see. This page is written by ` + "`go test ./connectors/builtin -update`" + ` from what the connectors say of themselves; [definition.md](definition.md) tells how a source is declared.

`)
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + s + "`"
	}
	for _, k := range builtin.Kinds().Sources {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", k.Name(), k.Doc())
		b.WriteString("| setting | form | default | |\n|---|---|---|---|\n")
		for _, s := range k.Settings() {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Key, cell.Replace(s.Form), cell.Replace(code(s.Default)), cell.Replace(s.Doc))
		}
		b.WriteString("\n| variable | |\n|---|---|\n")
		for _, v := range k.Variables() {
			fmt.Fprintf(&b, "| `%s` | %s |\n", v.Name, cell.Replace(v.Doc))
		}
		b.WriteString("\n")
	}
	b.WriteString(`# Back ends that can be asked

A connection of a domain names one of these, and gives it settings and operations, which the steps of commands call; [definition.md](definition.md) tells how.

`)
	table := func(settings []connectors.Setting) {
		b.WriteString("| setting | form | default | |\n|---|---|---|---|\n")
		for _, s := range settings {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Key, cell.Replace(s.Form), cell.Replace(code(s.Default)), cell.Replace(s.Doc))
		}
		b.WriteString("\n")
	}
	for _, k := range builtin.Kinds().Backends {
		fmt.Fprintf(&b, "## %s\n\n%s\n\nA connection:\n\n", k.Name(), k.Doc())
		table(k.Settings())
		b.WriteString("One of its operations:\n\n")
		table(k.OperationSettings())
	}
	b.WriteString(`# What all of them share

- **Secrets** are references: ` + "`env:NAME`" + ` is an environment variable (use the prefix ` + "`TOUCHSTONE_SECRET_`" + `, which is left to definitions), ` + "`file:/path`" + ` the content of a file. Several can be live at once: to rotate, add the new one, let the sender switch, remove the old one. The journal records the name of the secret that matched, never the secret.
- **A full row repeats what did not change.** A change stream claims every column with every change, so a field with policy ` + "`latest`" + ` that a change stream feeds goes to the stream with each of them. Use ` + "`priority`" + ` there, or map the column only where it changed.
- **Copies** are recognised by the sender's event id where it has one, else by the content: the canonical JSON (RFC 8785) of the body without the paths declared ` + "`volatile`" + `.
- **Order** is kept between deliveries of equal ` + "`orderBy`" + `; a change stream has the key of the row without being told.
`)
	const path = "../../docs/connectors.md"
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("docs/connectors.md is not what the connectors say (%v); run go test ./connectors/builtin -update", err)
	}
}
