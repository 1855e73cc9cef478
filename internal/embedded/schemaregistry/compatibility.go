package schemaregistry

import (
	"errors"
	"fmt"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
)

// version is an earlier schema of a subject.
type version struct {
	number int
	schema *avro.Schema
}

// check compares a schema with earlier ones, oldest first, at a level, and says
// what is incompatible, in the form of Confluent's messages. BACKWARD means that
// the new schema reads what the old one wrote, FORWARD the reverse, FULL both;
// all against the latest version, or against every one if transitive.
func check(level sr.CompatibilityLevel, earlier []version, candidate *avro.Schema) []string {
	var backward, forward bool
	transitive := false
	switch level {
	case sr.CompatBackwardTransitive:
		transitive = true
		fallthrough
	case sr.CompatBackward:
		backward = true
	case sr.CompatForwardTransitive:
		transitive = true
		fallthrough
	case sr.CompatForward:
		forward = true
	case sr.CompatFullTransitive:
		transitive = true
		fallthrough
	case sr.CompatFull:
		backward, forward = true, true
	}
	if !transitive && len(earlier) > 1 {
		earlier = earlier[len(earlier)-1:]
	}
	var messages []string
	for i := len(earlier) - 1; i >= 0; i-- {
		old := earlier[i]
		if backward {
			if err := avro.CheckCompatibility(old.schema, candidate); err != nil {
				messages = append(messages, message("BACKWARD", "the new schema cannot read what the old one wrote", old.number, err))
			}
		}
		if forward {
			if err := avro.CheckCompatibility(candidate, old.schema); err != nil {
				messages = append(messages, message("FORWARD", "the old schema cannot read what the new one writes", old.number, err))
			}
		}
	}
	return messages
}

func message(direction, meaning string, number int, err error) string {
	path, detail := "/", err.Error()
	var c *avro.CompatibilityError
	if errors.As(err, &c) {
		path = c.Path
		detail = fmt.Sprintf("reader %s, writer %s: %s", c.ReaderType, c.WriterType, c.Detail)
	}
	return fmt.Sprintf("{compatibility: '%s', path: '%s', reason: '%s', description: '%s', oldSchemaVersion: %d}", direction, path, detail, meaning, number)
}
