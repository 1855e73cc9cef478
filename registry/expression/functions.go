package expression

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // time zones where the operating system has none

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// Function documents one of the functions that are added to CEL.
type Function struct{ Signature, Doc string }

// Functions lists the functions that are added to CEL and its extensions, for
// the documentation. A null argument gives null in all of them but coalesce.
func Functions() []Function {
	return []Function{
		{"coalesce(a, b, …)", "the first argument that is there and not null; up to five"},
		{"lower(string), upper(string), trim(string)", "the string in lower case, in upper case, without white space around it (Unicode)"},
		{"digits(string)", "the digits 0-9 of the string and nothing else"},
		{"nullIfBlank(string)", "null for a string of nothing but white space, otherwise the string: CSV has no null"},
		{"parseInt(string), parseFloat(string)", "the number that a string tells, white space around it aside; null for a blank string"},
		{"sha256(string or bytes)", "the SHA-256 hash, 64 lower-case hexadecimal digits"},
		{"days(int), seconds(number), millis(int), micros(int), nanos(int)", "the timestamp that many units after 1970-01-01T00:00:00Z"},
		{"parseTime(string, layout)", "the timestamp that a string tells; the layout is written as Go does, as the reference time 2006-01-02 15:04:05"},
		{"parseTime(string, layout, zone)", "the same in a time zone of the IANA database, such as Europe/Berlin, where the string does not tell one"},
		{"date(timestamp)", "the UTC date, as YYYY-MM-DD"},
		{"date(string, layout)", "the date that a string tells, as YYYY-MM-DD"},
		{"urlPart(string or int)", "the value as one part of a URL's path: everything else than letters, digits and -_.~ is escaped"},
		{"parseJSON(string)", "the value that a string holds as JSON"},
	}
}

// functions declares them. Text arguments are nullable, so that a null of a
// source stays a null and does not fail the record.
func functions() []cel.EnvOption {
	text, number := cel.NullableType(cel.StringType), cel.NullableType(cel.IntType)
	moment := cel.TimestampType
	onText := func(name string, f func(string) ref.Val, result *cel.Type) cel.EnvOption {
		return cel.Function(name, cel.Overload("touchstone_"+name+"_string", []*cel.Type{text}, result, cel.UnaryBinding(func(v ref.Val) ref.Val {
			s, ok := v.(types.String)
			if !ok {
				return types.NullValue
			}
			return f(string(s))
		})))
	}
	since := func(name string, unit time.Duration) cel.FunctionOpt {
		return cel.Overload("touchstone_"+name+"_int", []*cel.Type{number}, moment, cel.UnaryBinding(func(v ref.Val) ref.Val {
			n, ok := v.(types.Int)
			if !ok {
				return types.NullValue
			}
			return after1970(name, int64(n), unit)
		}))
	}
	zones := &zoneCache{}
	return []cel.EnvOption{
		onText("lower", func(s string) ref.Val { return types.String(strings.ToLower(s)) }, text),
		onText("upper", func(s string) ref.Val { return types.String(strings.ToUpper(s)) }, text),
		cel.Function("trim",
			cel.Overload("touchstone_trim_string", []*cel.Type{text}, text, cel.UnaryBinding(func(v ref.Val) ref.Val {
				s, ok := v.(types.String)
				if !ok {
					return types.NullValue
				}
				return types.String(strings.TrimSpace(string(s)))
			}))),
		onText("digits", func(s string) ref.Val {
			return types.String(strings.Map(func(r rune) rune {
				if r >= '0' && r <= '9' {
					return r
				}
				return -1
			}, s))
		}, text),
		cel.Function("urlPart",
			cel.Overload("touchstone_urlPart_string", []*cel.Type{text}, text, cel.UnaryBinding(func(v ref.Val) ref.Val {
				s, ok := v.(types.String)
				if !ok {
					return types.NullValue
				}
				return types.String(strings.ReplaceAll(url.QueryEscape(string(s)), "+", "%20"))
			})),
			cel.Overload("touchstone_urlPart_int", []*cel.Type{cel.IntType}, text, cel.UnaryBinding(func(v ref.Val) ref.Val {
				return types.String(strconv.FormatInt(int64(v.(types.Int)), 10))
			}))),
		onText("parseJSON", parseJSON, cel.DynType),
		onText("nullIfBlank", func(s string) ref.Val {
			if strings.TrimSpace(s) == "" {
				return types.NullValue
			}
			return types.String(s)
		}, text),
		onText("parseInt", func(s string) ref.Val {
			if s = strings.TrimSpace(s); s == "" {
				return types.NullValue
			}
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return types.NewErr("parseInt: expected a 64-bit integer, found %q", shorten(s))
			}
			return types.Int(n)
		}, number),
		onText("parseFloat", func(s string) ref.Val {
			if s = strings.TrimSpace(s); s == "" {
				return types.NullValue
			}
			f, err := strconv.ParseFloat(s, 64)
			if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
				return types.NewErr("parseFloat: expected a number, found %q", shorten(s))
			}
			return types.Double(f)
		}, cel.NullableType(cel.DoubleType)),
		cel.Function("sha256",
			cel.Overload("touchstone_sha256_string", []*cel.Type{text}, text, cel.UnaryBinding(func(v ref.Val) ref.Val {
				s, ok := v.(types.String)
				if !ok {
					return types.NullValue
				}
				return hash([]byte(s))
			})),
			cel.Overload("touchstone_sha256_bytes", []*cel.Type{cel.BytesType}, text, cel.UnaryBinding(func(v ref.Val) ref.Val {
				return hash([]byte(v.(types.Bytes)))
			}))),
		cel.Function("days", since("days", 24*time.Hour)),
		cel.Function("millis", since("millis", time.Millisecond)),
		cel.Function("micros", since("micros", time.Microsecond)),
		cel.Function("nanos", since("nanos", time.Nanosecond)),
		cel.Function("seconds", since("seconds", time.Second),
			cel.Overload("touchstone_seconds_double", []*cel.Type{cel.DoubleType}, moment, cel.UnaryBinding(func(v ref.Val) ref.Val {
				f := float64(v.(types.Double)) * 1e6
				if math.IsNaN(f) || math.Abs(f) > 1<<53 {
					return types.NewErr("seconds: expected a number of seconds since 1970, found %v", v.Value())
				}
				return after1970("seconds", int64(math.Round(f)), time.Microsecond)
			}))),
		cel.Function("parseTime",
			cel.Overload("touchstone_parseTime", []*cel.Type{text, cel.StringType}, moment, cel.BinaryBinding(func(s, layout ref.Val) ref.Val {
				return parseTime(s, layout, time.UTC)
			})),
			cel.Overload("touchstone_parseTime_zone", []*cel.Type{text, cel.StringType, cel.StringType}, moment, cel.FunctionBinding(func(args ...ref.Val) ref.Val {
				zone, err := zones.load(string(args[2].(types.String)))
				if err != nil {
					return types.NewErr("parseTime: expected a time zone such as Europe/Berlin, found %q", args[2].Value())
				}
				return parseTime(args[0], args[1], zone)
			}))),
		cel.Function("date",
			cel.Overload("touchstone_date_timestamp", []*cel.Type{moment}, text, cel.UnaryBinding(func(v ref.Val) ref.Val {
				return types.String(v.(types.Timestamp).UTC().Format(time.DateOnly))
			})),
			cel.Overload("touchstone_date_string", []*cel.Type{text, cel.StringType}, text, cel.BinaryBinding(func(s, layout ref.Val) ref.Val {
				v := parseTime(s, layout, time.UTC)
				if t, ok := v.(types.Timestamp); ok {
					return types.String(t.Format(time.DateOnly))
				}
				return v
			}))),
		cel.Function("coalesce", coalesce(2), coalesce(3), coalesce(4), coalesce(5)),
	}
}

// coalesce takes errors as arguments, so that a missing member is passed over
// as null is; any other error stays one.
func coalesce(arity int) cel.FunctionOpt {
	t := cel.TypeParamType("T")
	args := make([]*cel.Type, arity)
	for i := range args {
		args[i] = t
	}
	first := func(vs ...ref.Val) ref.Val {
		null := false
		for _, v := range vs {
			if o, ok := v.(*types.Optional); ok {
				if !o.HasValue() {
					continue
				}
				v = o.GetValue()
			}
			switch {
			case v == types.NullValue:
				null = true
			case isMissing(v):
			default:
				return v
			}
		}
		if null {
			return types.NullValue
		}
		return types.WrapErr(fmt.Errorf("%w: coalesce found nothing in any of its arguments", definition.ErrMissing))
	}
	binding := cel.FunctionBinding(func(vs ...ref.Val) ref.Val { return first(vs...) })
	if arity == 2 {
		binding = cel.BinaryBinding(func(a, b ref.Val) ref.Val { return first(a, b) })
	}
	return cel.Overload(fmt.Sprintf("touchstone_coalesce_%d", arity), args, t, binding, cel.OverloadIsNonStrict())
}

func hash(b []byte) ref.Val {
	sum := sha256.Sum256(b)
	return types.String(hex.EncodeToString(sum[:]))
}

func parseJSON(s string) ref.Val {
	v, err := jcs.Decode([]byte(s))
	if err != nil {
		return types.NewErr("parseJSON: expected JSON, found %q: %v", shorten(s), err)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// after1970 refuses what a timestamp of CEL (years 1 to 9999) cannot hold.
func after1970(name string, n int64, unit time.Duration) ref.Val {
	var t time.Time
	switch unit {
	case time.Nanosecond:
		t = time.Unix(n/1e9, n%1e9)
	case time.Microsecond:
		t = time.UnixMicro(n)
	case time.Millisecond:
		t = time.UnixMilli(n)
	default:
		s := int64(unit / time.Second)
		if n > math.MaxInt64/s || n < math.MinInt64/s {
			return types.NewErr("%s: expected a time between the years 1 and 9999, found %d", name, n)
		}
		t = time.Unix(n*s, 0)
	}
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return types.NewErr("%s: expected a time between the years 1 and 9999, found %d", name, n)
	}
	return types.Timestamp{Time: t.UTC()}
}

func parseTime(s, layout ref.Val, zone *time.Location) ref.Val {
	text, ok := s.(types.String)
	if !ok {
		return types.NullValue
	}
	t, err := time.ParseInLocation(string(layout.(types.String)), string(text), zone)
	if err != nil {
		return types.NewErr("parseTime: expected a time written like %q, found %q", layout.Value(), shorten(string(text)))
	}
	return types.Timestamp{Time: t.UTC()}
}

// zoneCache keeps the time zones that expressions name: loading one reads a
// file. The database has some 600 of them, which bounds it.
type zoneCache struct{ zones sync.Map }

func (c *zoneCache) load(name string) (*time.Location, error) {
	if z, ok := c.zones.Load(name); ok {
		return z.(*time.Location), nil
	}
	z, err := time.LoadLocation(name)
	if err == nil && name != "Local" && name != "" {
		c.zones.Store(name, z)
	} else if err == nil {
		return nil, fmt.Errorf("%q is no time zone of its own", name)
	}
	return z, err
}
