package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/telemetry"
)

// versionView is the build as `version` tells it.
type versionView struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(e env) *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version of this program", Args: noArguments}
	out := outputFlag(c, "table", "json", "yaml")
	c.RunE = func(*cobra.Command, []string) error {
		b := telemetry.ReadBuild()
		v := versionView{b.Version, b.Revision, b.Go, runtime.GOOS + "/" + runtime.GOARCH}
		return e.printer(out).print(v, func(p printer) error { return p.printf("%s %s\n", b.String(), v.Platform) })
	}
	return c
}
