package kafkatest

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const install = "on Debian and Ubuntu: apt-get install openjdk-17-jre-headless maven"

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// javaCommand finds a Java that brokers run on.
func javaCommand() (string, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return "", fmt.Errorf("needs Java 17 or newer, and no java is on the PATH (%s)", install)
	}
	out, err := exec.Command(java, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -version: %w\n%s", java, err, out)
	}
	m := javaVersion.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s -version says %q, expected a version", java, out)
	}
	if v, err := strconv.Atoi(string(m[1])); err != nil || v < 17 {
		return "", fmt.Errorf("needs Java 17 or newer, found %s (%s)", m[1], install)
	}
	return java, nil
}

// pom is what is read of test/kafka/pom.xml.
type pom struct {
	path     string
	sum      string
	Kafka    string `xml:"properties>kafka.version"`
	Apicurio string `xml:"properties>apicurio.version"`
}

func readPom() (p pom, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return p, err
	}
	for ; ; dir = filepath.Dir(dir) {
		p.path = filepath.Join(dir, "test", "kafka", "pom.xml")
		b, err := os.ReadFile(p.path)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue
		}
		if err != nil {
			return p, err
		}
		sum := sha256.Sum256(b)
		p.sum = hex.EncodeToString(sum[:])
		if err := xml.Unmarshal(b, &p); err != nil {
			return p, fmt.Errorf("%s: %w", p.path, err)
		}
		if p.Kafka == "" || p.Apicurio == "" {
			return p, fmt.Errorf("%s: kafka.version %q, apicurio.version %q, expected both", p.path, p.Kafka, p.Apicurio)
		}
		return p, nil
	}
}

// kafkaJars gives the folder of Kafka's jars.
func kafkaJars() (string, error) {
	p, err := readPom()
	if err != nil {
		return "", err
	}
	return cached("kafka-"+p.Kafka, p.sum, func(dir string) error {
		return maven("-f", p.path, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
	})
}

// apicurioJar gives the runnable jar of Apicurio Registry. Its classpath is the
// folder that it is in.
func apicurioJar() (string, error) {
	p, err := readPom()
	if err != nil {
		return "", err
	}
	name := "apicurio-registry-app-" + p.Apicurio
	dir, err := cached("apicurio-"+p.Apicurio, p.sum, func(dir string) error {
		if err := maven("-f", p.path, "dependency:copy", "-Dartifact=io.apicurio:apicurio-registry-app:"+p.Apicurio+":tar.gz:all", "-DoutputDirectory="+dir); err != nil {
			return err
		}
		archive := filepath.Join(dir, name+"-all.tar.gz")
		if err := unpack(archive, dir); err != nil {
			return fmt.Errorf("unpack %s: %w", archive, err)
		}
		return os.Remove(archive)
	})
	return filepath.Join(dir, name+"-runner.jar"), err
}

// cached gives a folder of the cache, which is filled if it is absent or was
// filled by another version of the pom.
func cached(name, sum string, fill func(dir string) error) (string, error) {
	root, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root = filepath.Join(root, "touchstone")
	dir := filepath.Join(root, name)
	mark := filepath.Join(dir, "pom.sha256")
	if b, err := os.ReadFile(mark); err == nil && strings.TrimSpace(string(b)) == sum {
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	// Filled beside and moved into place as a whole: several test binaries may
	// be at it at once, and any of them may be killed.
	fresh, err := os.MkdirTemp(root, name+".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := fill(fresh); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(fresh, "pom.sha256"), []byte(sum+"\n"), 0o644); err != nil {
		return "", err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	err = os.Rename(fresh, dir)
	if b, readErr := os.ReadFile(mark); err != nil && readErr == nil && strings.TrimSpace(string(b)) == sum {
		return dir, nil // another was faster
	}
	return dir, err
}

func maven(args ...string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("needs Maven, once, to fetch jars from Maven Central, and no mvn is on the PATH (%s)", install)
	}
	if _, err := javaCommand(); err != nil {
		return err
	}
	out, err := exec.Command(mvn, append([]string{"-B", "-q"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mvn %s: %w (is Maven Central reachable?)\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// unpack extracts the plain files of a .tar.gz.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("entry %q leads out of the folder", h.Name)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		out, err := os.Create(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}
