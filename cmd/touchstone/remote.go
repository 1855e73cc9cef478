package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

// Where the server is: the flag, else the variable, else the default.
const (
	serverFlag     = "server"
	serverVariable = "TOUCHSTONE_SERVER"
	defaultServer  = "http://127.0.0.1:8080"
)

// remote is a command's way to the server.
type remote struct {
	env    env
	server *string
	domain *string
}

// serverFlags adds --server.
func serverFlags(e env, c *cobra.Command) *remote {
	return &remote{env: e, server: c.Flags().String(serverFlag, "", "server to ask ($"+serverVariable+", default "+defaultServer+")")}
}

// entityFlags adds --server and --domain.
func entityFlags(e env, c *cobra.Command) *remote {
	r := serverFlags(e, c)
	r.domain = c.Flags().String("domain", "", "domain of the resource, if several have one of that name")
	return r
}

// client makes the client of the server that was named.
func (r *remote) client() (*client.Client, error) {
	server, from := *r.server, "--"+serverFlag
	if server == "" {
		server, _ = r.env.getenv(serverVariable)
		from = serverVariable
	}
	if server == "" {
		server = defaultServer
	}
	c, err := client.New(server, nil)
	if err != nil {
		return nil, usage("%s: %w", from, err)
	}
	return c, nil
}

// domainOf finds the domain of a resource.
func (r *remote) domainOf(ctx context.Context, c *client.Client, resource string) (string, error) {
	if *r.domain != "" {
		return *r.domain, nil
	}
	having, err := c.DomainsWith(ctx, resource)
	switch {
	case err != nil:
		return "", err
	case len(having) == 1:
		return having[0], nil
	case len(having) > 1:
		return "", usage("resource %s is in several domains; choose with --domain one of %s", resource, strings.Join(having, ", "))
	}
	all, err := c.Domains(ctx)
	if err != nil {
		return "", err
	}
	return "", &exitError{code: exitNotFound, err: fmt.Errorf("no domain has a resource %q; the server runs %s", resource, strings.Join(all, ", "))}
}
