package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry"
)

// files opens files by the paths that the user wrote, so that problems name
// them in the same way.
type files struct{}

func (files) Open(name string) (fs.File, error) { return os.Open(filepath.FromSlash(name)) }

// domainsFlag adds --domains.
func domainsFlag(c *cobra.Command) *string {
	path := c.Flags().String("domains", "", "folder of domain definitions, or one file (default: the embedded samples)")
	// It fails only for flags that do not exist.
	_ = c.MarkFlagDirname("domains")
	return path
}

// loadDomains loads the definitions of a folder or file; of the program itself
// if the path is empty.
func loadDomains(path string) ([]*definition.Domain, error) {
	if path == "" {
		return registry.Embedded(builtin.Kinds())
	}
	domains, problems, err := readDefinitions(path)
	switch {
	case err != nil:
		return nil, err
	case len(problems) > 0:
		return nil, problems
	}
	slices.SortFunc(domains, func(a, b *definition.Domain) int { return strings.Compare(a.Name, b.Name) })
	return domains, nil
}

// readDefinitions reads files and folders and checks that their definitions
// can run together. Problems are sorted by place; err is about paths.
func readDefinitions(paths ...string) ([]*definition.Domain, registry.Problems, error) {
	var domains []*definition.Domain
	var problems registry.Problems
	names, err := definitionFiles(paths)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		d, err := registry.Load(files{}, name, builtin.Kinds())
		var wrong registry.Problems
		switch {
		case errors.As(err, &wrong):
			problems = append(problems, wrong...)
		case err != nil:
			return nil, nil, unreadable(name, err)
		default:
			domains = append(domains, d)
		}
	}
	var together registry.Problems
	if errors.As(registry.Together(domains), &together) {
		problems = append(problems, together...)
	}
	return domains, problems, nil
}

// definitionFiles lists the files that paths stand for: themselves, or every
// *.yaml and *.yml in a folder. A path given twice counts once.
func definitionFiles(paths []string) ([]string, error) {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if clean := filepath.Clean(name); !seen[clean] {
			seen[clean] = true
			names = append(names, name)
		}
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, unreadable(path, err)
		}
		if !info.IsDir() {
			add(path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, unreadable(path, err)
		}
		found := false
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
				found = true
				add(filepath.ToSlash(filepath.Join(path, e.Name())))
			}
		}
		if !found {
			return nil, usage("%s: found no *.yaml file, expected at least one definition", path)
		}
	}
	return names, nil
}

// unreadable tells of a path that the user gave and that cannot be read.
func unreadable(path string, err error) error {
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &exitError{code: exitNotFound, err: fmt.Errorf("%s: no such file or folder", path)}
	}
	return usage("%s: %w", path, err)
}

// follows gives the topics that a source is read from. Connectors tell it
// without their secrets, since describing must work where there are none.
func follows(s *definition.Source) []string {
	for _, k := range builtin.Kinds() {
		if k.Name() != s.Connector {
			continue
		}
		c, err := k.Open(s, func(ref string) (string, error) { return "", fmt.Errorf("%s: not needed here", ref) })
		if err != nil {
			return nil
		}
		if f, ok := c.(interface{ Topics() []string }); ok {
			return f.Topics()
		}
	}
	return nil
}
