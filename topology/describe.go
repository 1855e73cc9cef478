package topology

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Text prints the topology for people: per domain its groups with what they
// read and write, and its topics with how they are kept.
func (t *Topology) Text(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, d := range t.domains() {
		if i > 0 {
			fmt.Fprintln(tw)
		}
		fmt.Fprintf(tw, "domain %s\n\n", d)
		for _, f := range t.Feeds {
			if f.Domain == d {
				fmt.Fprintf(tw, "  feed\t%s\tcarries %s into %s\n", f.Name, strings.Join(f.Topics, ", "), f.Journal)
			}
		}
		for _, g := range t.Groups {
			if g.Domain != d {
				continue
			}
			fmt.Fprintf(tw, "  group\t%s\t%s\n", g.Name, g.Doc)
			fmt.Fprintf(tw, "\treads\t%s\n", strings.Join(g.Inputs, ", "))
			if g.Table != "" {
				fmt.Fprintf(tw, "\tkeeps\t%s\n", g.Table)
			}
			fmt.Fprintf(tw, "\twrites\t%s\n", strings.Join(append(append([]string(nil), g.Outputs...), g.DeadLetters), ", "))
		}
		for _, x := range t.Executors {
			if x.Domain == d {
				fmt.Fprintf(tw, "  executor\t%s\t%s\n\treads\t%s\n", x.Name, x.Doc, x.Calls)
				writes := []string{x.Answers, x.Attempts}
				if x.Journal != "" {
					writes = append(writes, x.Journal)
				}
				fmt.Fprintf(tw, "\twrites\t%s\n", strings.Join(writes, ", "))
			}
		}
		for _, v := range t.Views {
			if v.Domain == d {
				fmt.Fprintf(tw, "  view\t%s\tof %s: %s\n", v.Name, v.Topic, v.Doc)
			}
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(tw, "\n  topic\trecord\tpartitions\tcleanup\tretention\tkey\n")
		for _, x := range t.Topics {
			if x.Domain == d {
				fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\n", x.Name, x.Record, x.partitions(), x.cleanup(), x.retention(), x.Key)
			}
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func (x Topic) partitions() string {
	if x.Kind == External {
		return "-"
	}
	return fmt.Sprint(x.Partitions)
}

func (x Topic) cleanup() string {
	if x.Kind == External {
		return "external"
	}
	return x.CleanupPolicy()
}

func (x Topic) retention() string {
	if x.Kind == External {
		return "-"
	}
	return Age(x.Retention)
}

// Age prints a retention as people say it: "7d", "36h", "for ever".
func Age(d time.Duration) string {
	switch {
	case d <= 0:
		return "for ever"
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// Mermaid prints the flow as a Mermaid flowchart: groups as boxes, topics as
// cylinders (tables) and ovals (streams), views as flags.
func (t *Topology) Mermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for _, d := range t.domains() {
		fmt.Fprintf(&b, "  subgraph %s[\"%s\"]\n", node("d", d), d)
		for _, x := range t.Topics {
			if x.Domain != d {
				continue
			}
			open, end := "([", "])"
			if x.Kind == Table {
				open, end = "[(", ")]"
			}
			fmt.Fprintf(&b, "    %s%s\"%s\"%s\n", node("t", x.Name), open, strings.TrimPrefix(x.Name, d+"."), end)
		}
		for _, f := range t.Feeds {
			if f.Domain != d {
				continue
			}
			fmt.Fprintf(&b, "    %s[\"feed %s\"]\n", node("f", f.Name), f.Source)
			for _, in := range f.Topics {
				fmt.Fprintf(&b, "    %s --> %s\n", node("t", in), node("f", f.Name))
			}
			fmt.Fprintf(&b, "    %s --> %s\n", node("f", f.Name), node("t", f.Journal))
		}
		for _, g := range t.Groups {
			if g.Domain != d {
				continue
			}
			fmt.Fprintf(&b, "    %s[\"%s\"]\n", node("g", g.Name), g.Station)
			for _, in := range g.Inputs {
				fmt.Fprintf(&b, "    %s --> %s\n", node("t", in), node("g", g.Name))
			}
			if g.Table != "" {
				fmt.Fprintf(&b, "    %s <--> %s\n", node("g", g.Name), node("t", g.Table))
			}
			for _, out := range g.Outputs {
				fmt.Fprintf(&b, "    %s --> %s\n", node("g", g.Name), node("t", out))
			}
			fmt.Fprintf(&b, "    %s -.-> %s\n", node("g", g.Name), node("t", g.DeadLetters))
		}
		for _, x := range t.Executors {
			if x.Domain != d {
				continue
			}
			fmt.Fprintf(&b, "    %s[\"execute %s\"]\n    %s --> %s\n", node("x", x.Name), x.Connection, node("t", x.Calls), node("x", x.Name))
			for _, out := range []string{x.Answers, x.Attempts, x.Journal} {
				if out != "" {
					fmt.Fprintf(&b, "    %s --> %s\n", node("x", x.Name), node("t", out))
				}
			}
		}
		for _, v := range t.Views {
			if v.Domain == d {
				fmt.Fprintf(&b, "    %s>\"%s\"]\n    %s --> %s\n", node("v", v.Name), strings.TrimPrefix(v.Name, d+"."), node("t", v.Topic), node("v", v.Name))
			}
		}
		b.WriteString("  end\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// node makes a Mermaid identifier of a name.
func node(prefix, name string) string {
	return prefix + "_" + strings.NewReplacer(".", "_", "-", "_").Replace(name)
}

// JSON prints the topology as one indented JSON object.
func (t *Topology) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(t)
}

// MarshalJSON adds what is derived: the broker configuration.
func (x Topic) MarshalJSON() ([]byte, error) {
	type plain Topic
	var configs map[string]string
	if x.Kind != External {
		configs = x.Configs()
	}
	return json.Marshal(struct {
		plain
		Configs map[string]string `json:"configs,omitempty"`
	}{plain(x), configs})
}

func (t *Topology) domains() []string {
	var out []string
	seen := map[string]bool{}
	for _, x := range t.Topics {
		if !seen[x.Domain] {
			seen[x.Domain] = true
			out = append(out, x.Domain)
		}
	}
	return out
}
