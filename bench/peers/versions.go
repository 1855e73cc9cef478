package peers

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/touchstone-platform/touchstone/internal/testkit/kafkatest"
)

// Versions says what was compared, and on what.
type Versions struct {
	Touchstone string `json:"touchstone"`
	Go         string `json:"go"`
	Kafka      string `json:"kafka"`
	Streams    string `json:"streams,omitempty"`
	Java       string `json:"java"`
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	Kernel     string `json:"kernel"`
}

var (
	streamsJar = regexp.MustCompile(`^kafka-streams-(.+)\.jar$`)
	javaLine   = regexp.MustCompile(`version "([^"]+)"`)
)

func readVersions(o Options) (v Versions, err error) {
	v = Versions{Go: runtime.Version(), Processors: runtime.NumCPU(), CPU: cpuModel()}
	var errs [4]error
	v.Kafka, errs[0] = kafkatest.Version()
	out, err := exec.Command("java", "-version").CombinedOutput()
	if m := javaLine.FindSubmatch(out); err == nil && m != nil {
		v.Java = string(m[1])
	} else {
		errs[1] = fmt.Errorf("java -version: %w %s", err, out)
	}
	out, errs[2] = exec.Command(o.Touchstone, "version").Output()
	v.Touchstone, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	v.Kernel, errs[3] = strings.TrimSpace(string(kernel)), err
	for _, s := range o.Subjects {
		if s.Kind != Streams {
			continue
		}
		found, err := streamsVersion(s.target(o.StreamsDir))
		if err != nil {
			return v, err
		}
		if want := s.setting("version", "4.1.1"); found != want {
			return v, fmt.Errorf("%s: found Kafka Streams %s, expected %s", s, found, want)
		}
		if !strings.Contains(v.Streams, found) {
			v.Streams = strings.TrimPrefix(v.Streams+" and "+found, " and ")
		}
	}
	return v, errors.Join(errs[:]...)
}

// streamsVersion reads the version of Kafka Streams from the name of its jar.
func streamsVersion(target string) (string, error) {
	lib := filepath.Join(target, "lib")
	entries, err := os.ReadDir(lib)
	if err != nil {
		return "", fmt.Errorf("kafka streams is not built (see pom.xml beside %s): %w", target, err)
	}
	for _, e := range entries {
		if m := streamsJar.FindStringSubmatch(e.Name()); m != nil {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("%s holds no kafka-streams jar", lib)
}

// cpuModel is how Linux names the processor.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
