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
	"github.com/touchstone-platform/touchstone/internal/config"
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

// loadDomains loads the definitions of folders and files; those of the program
// itself if no path is given.
func loadDomains(paths ...string) ([]*definition.Domain, error) {
	paths = slices.DeleteFunc(paths, func(p string) bool { return p == "" })
	if len(paths) == 0 {
		return registry.Embedded(builtin.Kinds())
	}
	domains, problems, err := readDefinitions(paths...)
	switch {
	case err != nil:
		return nil, err
	case len(problems) > 0:
		return nil, problems
	}
	slices.SortFunc(domains, func(a, b *definition.Domain) int { return strings.Compare(a.Name, b.Name) })
	return domains, nil
}

// configuredDomains loads the definitions that a configuration names, or those
// of the program itself if it names none.
func configuredDomains(c *config.Config) ([]*definition.Domain, error) {
	var paths []string
	if c.Domains.Dir != "" {
		paths = append(paths, c.Domains.Dir)
	}
	return loadDomains(append(paths, c.Domains.Files...)...)
}

// readDefinitions reads files and folders and checks that their definitions
// can run together. Problems are sorted by place; err is about paths.
func readDefinitions(paths ...string) ([]*definition.Domain, registry.Problems, error) {
	var domains []*definition.Domain
	var problems registry.Problems
	names, err := yamlFiles(paths, "definition")
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
	for _, k := range builtin.Kinds().Sources {
		if k.Name() != s.Connector {
			continue
		}
		c, err := k.Open(s, registry.Placeholders)
		if err != nil {
			return nil // the registry has opened it in the same way before
		}
		if f, ok := c.(interface{ Topics() []string }); ok {
			return f.Topics()
		}
	}
	return nil
}
