package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build is what the program knows of its own making.
type build struct {
	Version string `json:"version"`
	// Revision is the commit; Modified that the work tree was not clean.
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// thisBuild reads what the Go tool has written into the program.
func thisBuild() build {
	b := build{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func newVersion(e env) *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version of this program", Args: noArguments}
	out := outputFlag(c, "table", "json", "yaml")
	c.RunE = func(*cobra.Command, []string) error {
		b := thisBuild()
		return e.printer(out).print(b, func(p printer) error {
			if err := p.printf("touchstone %s %s %s\n", b.Version, b.Go, b.Platform); err != nil || b.Revision == "" {
				return err
			}
			note := ""
			if b.Modified {
				note = ", with changes"
			}
			return p.printf("commit %s of %s%s\n", b.Revision, b.Time, note)
		})
	}
	return c
}
