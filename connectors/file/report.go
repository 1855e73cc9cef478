package file

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Code names a kind of error. Those that frictionless validation has too are
// spelt as there.
type Code string

// The codes.
const (
	SourceError     Code = "source-error"     // the file as a whole cannot be read
	BlankLabel      Code = "blank-label"      // a label of the header is empty
	DuplicateLabel  Code = "duplicate-label"  // a label occurs twice; the second is read as label2
	MissingLabel    Code = "missing-label"    // a required column is not in the header
	MissingCell     Code = "missing-cell"     // the row is shorter than the header
	ExtraCell       Code = "extra-cell"       // the row is longer than the header
	BlankRow        Code = "blank-row"        // the row has no value at all
	TypeError       Code = "type-error"       // the value is not of the declared type
	ConstraintError Code = "constraint-error" // a required value is empty
	EncodingError   Code = "encoding-error"   // the bytes are not of the declared encoding
	QuoteError      Code = "quote-error"      // a quote that is not closed, or text behind one that is
	JSONError       Code = "json-error"       // the line is no JSON object
	RowTooLong      Code = "row-too-long"     // the row is longer than maxRowBytes
)

// Error is one thing wrong with a file.
type Error struct {
	// Row as in the file, the header being row 1; 0 speaks of the whole file.
	Row int64 `json:"row"`
	// Line is the physical line at which the row starts, from 1. It differs
	// from Row where cells contain line ends.
	Line int64 `json:"line"`
	// Column from 1, and its label; 0 and "" speak of the whole row.
	Column int    `json:"column,omitempty"`
	Name   string `json:"name,omitempty"`
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
}

// Error reads "row 5 column 3 (age): type-error: found ...".
func (e Error) Error() string {
	var b strings.Builder
	if e.Row > 0 {
		fmt.Fprintf(&b, "row %d", e.Row)
		if e.Column > 0 {
			fmt.Fprintf(&b, " column %d", e.Column)
		}
		if e.Name != "" {
			fmt.Fprintf(&b, " (%s)", e.Name)
		}
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "%s: %s", e.Code, e.Reason)
	return b.String()
}

// MaxErrors is how many errors a report lists; Report.ErrorCount counts all.
const MaxErrors = 1000

// maxRowErrors is how many errors a row lists.
const maxRowErrors = 20

// Report is what reading a file found.
type Report struct {
	// Columns are the labels as records spell them; "" for a blank label.
	Columns []string `json:"columns,omitempty"`
	// Rows that hold data: Good and Bad ones. The header, comments and blank
	// rows that are skipped do not count.
	Rows int64 `json:"rows"`
	Good int64 `json:"good"`
	Bad  int64 `json:"bad"`
	// Bytes of the file and their SHA-256 in lower-case hexadecimal.
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	// Errors lists the first MaxErrors; the counts are exact.
	Errors     []Error        `json:"errors,omitempty"`
	ErrorCount int64          `json:"errorCount"`
	ByCode     map[Code]int64 `json:"byCode,omitempty"`
	// Sums of the control columns over all rows, good or bad, as exact
	// decimals; values that are no numbers add nothing.
	Sums map[string]string `json:"sums,omitempty"`
}

func (r *Report) add(e Error) {
	r.count(e.Code, 1)
	if len(r.Errors) < MaxErrors {
		r.Errors = append(r.Errors, e)
	}
}

func (r *Report) count(c Code, n int64) {
	if r.ByCode == nil {
		r.ByCode = map[Code]int64{}
	}
	r.ByCode[c] += n
	r.ErrorCount += n
}

// Manifest is what the sender says the file holds; parts that are not set are
// not compared.
type Manifest struct {
	Rows   *int64            `json:"rows,omitempty"`
	SHA256 string            `json:"sha256,omitempty"`
	Sums   map[string]string `json:"sums,omitempty"`
}

// Accept decides whether a file that was inspected may be journaled: it can be
// read, has not more bad rows than the settings allow, and agrees with the
// sender's manifest, if there is one. A refusal is a failure of kind Validation
// that gives every reason.
func (s *Source) Accept(name string, r *Report, m *Manifest) error {
	var why []string
	for _, e := range r.Errors {
		if e.Code == SourceError {
			why = append(why, e.Error())
		}
	}
	if s.maxBadRows >= 0 && r.Bad > s.maxBadRows {
		why = append(why, fmt.Sprintf("found %d bad rows, expected at most %d (abort.maxBadRows)", r.Bad, s.maxBadRows))
	}
	if r.Rows > 0 && float64(r.Bad) > s.maxBadShare*float64(r.Rows) {
		why = append(why, fmt.Sprintf("found %d bad rows of %d, expected a share of at most %v (abort.maxBadShare)", r.Bad, r.Rows, s.maxBadShare))
	}
	if m != nil {
		why = append(why, m.compare(r)...)
	}
	if len(why) == 0 {
		return nil
	}
	if len(r.Errors) > 0 && r.Errors[0].Code != SourceError {
		why = append(why, "the first error is in "+r.Errors[0].Error())
	}
	return failure.New(failure.Validation, "accept file", name, "%s", strings.Join(why, "; "))
}

func (m *Manifest) compare(r *Report) (why []string) {
	if m.Rows != nil && *m.Rows != r.Rows {
		why = append(why, fmt.Sprintf("control total rows: found %d, the manifest says %d", r.Rows, *m.Rows))
	}
	if m.SHA256 != "" && !strings.EqualFold(m.SHA256, r.SHA256) {
		why = append(why, fmt.Sprintf("sha256: found %s, the manifest says %.80q", r.SHA256, m.SHA256))
	}
	for _, column := range slices.Sorted(maps.Keys(m.Sums)) {
		found, ok := r.Sums[column]
		if !ok {
			why = append(why, fmt.Sprintf("control total of %s: it is not summed; controlTotals.sum must list it", column))
			continue
		}
		want, err := parseDecimal(m.Sums[column])
		if err != nil {
			why = append(why, fmt.Sprintf("control total of %s: the manifest says %.80q, which is no decimal", column, m.Sums[column]))
			continue
		}
		if got, _ := parseDecimal(found); want.cmp(got) != 0 {
			why = append(why, fmt.Sprintf("control total of %s: found %s, the manifest says %s", column, found, m.Sums[column]))
		}
	}
	return why
}

// number is an exact decimal: unscaled / 10^scale.
type number struct {
	unscaled *big.Int
	scale    int
}

// maxDigits of a decimal in a file.
const maxDigits = 100

// parseDecimal reads "-12.50": a sign, digits and at most one point.
func parseDecimal(s string) (number, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	whole, fraction, _ := strings.Cut(digits, ".")
	if len(s)-len(digits) > 1 || whole+fraction == "" || len(whole)+len(fraction) > maxDigits || strings.Trim(whole+fraction, "0123456789") != "" {
		return number{new(big.Int), 0}, fmt.Errorf("found %.60q, expected a decimal such as -12.50", s)
	}
	n, _ := new(big.Int).SetString(whole+fraction, 10)
	if s[0] == '-' {
		n.Neg(n)
	}
	return number{n, len(fraction)}, nil
}

func (n *number) rescale(scale int) *big.Int {
	if scale <= n.scale {
		return n.unscaled
	}
	return new(big.Int).Mul(n.unscaled, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale-n.scale)), nil))
}

func (n *number) add(m number) {
	scale := max(n.scale, m.scale)
	n.unscaled = new(big.Int).Add(n.rescale(scale), m.rescale(scale))
	n.scale = scale
}

func (n number) cmp(m number) int {
	scale := max(n.scale, m.scale)
	return n.rescale(scale).Cmp(m.rescale(scale))
}

// String has as many digits behind the point as the values had.
func (n number) String() string {
	digits := new(big.Int).Abs(n.unscaled).String()
	if len(digits) <= n.scale {
		digits = strings.Repeat("0", n.scale-len(digits)+1) + digits
	}
	if n.scale > 0 {
		digits = digits[:len(digits)-n.scale] + "." + digits[len(digits)-n.scale:]
	}
	if n.unscaled.Sign() < 0 {
		return "-" + digits
	}
	return digits
}
