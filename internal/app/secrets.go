package app

import (
	"fmt"
	"os"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
)

// Secrets resolves references against the environment and the file system:
// "env:NAME" and "file:/path", of which the last line end is not part.
func Secrets(getenv func(string) string) connectors.Secrets {
	return func(ref string) (string, error) {
		kind, where, ok := strings.Cut(ref, ":")
		switch {
		case ok && kind == "env" && where != "":
			if v := getenv(where); v != "" {
				return v, nil
			}
			return "", fmt.Errorf("secret %s: the environment variable is not set", ref)
		case ok && kind == "file" && where != "":
			b, err := os.ReadFile(where)
			if err != nil {
				return "", fmt.Errorf("secret %s: %w", ref, err)
			}
			v := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
			if v == "" {
				return "", fmt.Errorf("secret %s: the file is empty", ref)
			}
			return v, nil
		}
		return "", fmt.Errorf("secret reference %q: expected env:NAME or file:/path", ref)
	}
}
