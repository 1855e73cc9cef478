// Package registry loads domain definitions: YAML files that a business owner
// can read become definition.Domain values that every station is driven by.
// Everything is checked when a definition is loaded, expressions included, and
// all problems are reported at once, each with its place, what was found there
// and what was expected. The form is described in docs/definition.md.
//
// It does not open connectors for use, create topics or watch files.
package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/schemas"
)

// APIVersion of the definitions that this version reads.
const APIVersion = "touchstone/v1"

// MaxFileBytes is the size of the largest definition file that is read.
const MaxFileBytes = 4 << 20

// Load reads the definition in one file. kinds are the kinds of connector that
// its sources may have. Wrong definitions give Problems; a file that cannot be
// read gives the error of the file system.
func Load(fsys fs.FS, name string, kinds connectors.Kinds) (*definition.Domain, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > MaxFileBytes {
		return nil, Problems{{File: name, Found: fmt.Sprintf("%d bytes", info.Size()), Expected: fmt.Sprintf("at most %d", MaxFileBytes)}}
	}
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	return Parse(name, text, kinds)
}

// Parse reads a definition from its text; file names it in problems.
func Parse(file string, text []byte, kinds connectors.Kinds) (*definition.Domain, error) {
	l := &loader{file: file, kinds: kinds}
	d := l.load(text)
	if len(l.problems) > 0 {
		l.problems.sort()
		return nil, l.problems
	}
	d.File, d.Fingerprint = file, Fingerprint(text)
	return d, nil
}

// Fingerprint identifies a definition's content: the first 16 lower-case
// hexadecimal digits of the SHA-256 of its text.
func Fingerprint(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// LoadDir reads every definition (*.yaml, *.yml) in a folder, not in those
// below it, and checks that they can run together. The domains are sorted by
// name. A folder without definitions is an error.
func LoadDir(fsys fs.FS, dir string, kinds connectors.Kinds) ([]*definition.Domain, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	var domains []*definition.Domain
	var problems Problems
	for _, e := range entries {
		if ext := path.Ext(e.Name()); e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		d, err := Load(fsys, path.Join(dir, e.Name()), kinds)
		var p Problems
		switch {
		case errors.As(err, &p):
			problems = append(problems, p...)
		case err != nil:
			return nil, err
		default:
			domains = append(domains, d)
		}
	}
	if len(domains) == 0 && len(problems) == 0 {
		return nil, Problems{{File: dir, Found: "no *.yaml file", Expected: "at least one definition"}}
	}
	var together Problems
	if errors.As(Together(domains), &together) {
		problems = append(problems, together...)
	}
	if len(problems) > 0 {
		problems.sort()
		return nil, problems
	}
	slices.SortFunc(domains, func(a, b *definition.Domain) int { return strings.Compare(a.Name, b.Name) })
	return domains, nil
}

// Together checks that domains can run in one installation: their names are
// different, and so are the names of all their sources, because a delivery
// names its source and not its domain. The error is Problems.
func Together(domains []*definition.Domain) error {
	var problems Problems
	names, sources := map[string]*definition.Domain{}, map[string]*definition.Domain{}
	for _, d := range domains {
		if other, taken := names[d.Name]; taken {
			problems = append(problems, Problem{
				File: d.File, Key: "domain", Found: quote(d.Name) + ", which " + other.File + " declares as well",
				Expected: "a name of its own for each domain",
			})
			continue
		}
		names[d.Name] = d
		for _, s := range d.Sources {
			if other, taken := sources[s.Name]; taken {
				problems = append(problems, Problem{
					File: d.File, Key: "sources." + s.Name, Found: "a source that " + other.File + " declares as well",
					Expected: "a name of its own for each source of an installation",
				})
				continue
			}
			sources[s.Name] = d
		}
	}
	problems = append(problems, children(domains)...)
	if len(problems) == 0 {
		return nil
	}
	return problems
}

// children checks that the commands that steps send are declared.
func children(domains []*definition.Domain) (problems Problems) {
	for _, d := range domains {
		for _, c := range d.Commands() {
			for _, stage := range c.Stages {
				for _, s := range stage {
					if s.Kind != definition.Child {
						continue
					}
					operations := []string{s.Operation}
					if s.Undo != nil {
						operations = append(operations, s.Undo.Operation)
					}
					for _, op := range operations {
						if !declared(domains, s.Connection, op) {
							problems = append(problems, Problem{
								File: d.File, Line: s.Line, Key: "commands." + c.Name + ".steps." + s.Name, Found: quote(s.Connection + "." + op),
								Expected: "<domain>.<resource>.<Command> of a domain of the installation",
							})
						}
					}
				}
			}
		}
	}
	return problems
}

func declared(domains []*definition.Domain, domain, operation string) bool {
	resource, command, _ := strings.Cut(operation, ".")
	for _, d := range domains {
		if d.Name != domain {
			continue
		}
		if r, ok := d.Resource(resource); ok {
			_, ok := r.Command(command)
			return ok
		}
	}
	return false
}

// Embedded gives the sample domains that are part of the program.
func Embedded(kinds connectors.Kinds) ([]*definition.Domain, error) {
	return LoadDir(schemas.Domains, "domains", kinds)
}
