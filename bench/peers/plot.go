package peers

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// Plots are plain SVG with their own background, so that they read the same on
// light and dark pages.
const (
	plotWidth  = 860
	labelWidth = 330
	rowHeight  = 30
)

var colours = []string{"#1f5f8b", "#e08e45", "#8a8f98", "#3d8361", "#a23e48", "#6c4ab6", "#b59f3b", "#2a9d8f"}

// bar is one row; its parts are stacked.
type bar struct {
	label string
	parts []float64
}

// barsSVG draws rows of stacked bars.
func barsSVG(title string, legend []string, bars []bar) []byte {
	most := 0.0
	for _, r := range bars {
		total := 0.0
		for _, v := range r.parts {
			total += max(v, 0)
		}
		most = max(most, total)
	}
	height := 70 + rowHeight*len(bars) + 30
	b := openSVG(height, title)
	x := 20.0
	for i, l := range legend {
		fmt.Fprintf(b, `<rect x="%.0f" y="40" width="12" height="12" fill="%s"/><text x="%.0f" y="51">%s</text>`, x, colours[i], x+18, html.EscapeString(l))
		x += 40 + 8*float64(len(l))
	}
	scale := (plotWidth - labelWidth - 80) / max(most, 1e-9)
	for i, r := range bars {
		y := 70 + rowHeight*i
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-10, y+15, html.EscapeString(r.label))
		at, total := float64(labelWidth), 0.0
		for j, v := range r.parts {
			w := max(v, 0) * scale
			fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="20" fill="%s"/>`, at, y, w, colours[j%len(colours)])
			at += w
			total += max(v, 0)
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d">%.3g</text>`, at+6, y+15, total)
	}
	return closeSVG(b)
}

type point struct{ x, y float64 }

type line struct {
	label  string
	points []point
}

// linesSVG draws lines on logarithmic axes.
func linesSVG(title, axis string, lines []line) []byte {
	const height, left, right, top, bottom = 420, 70, plotWidth - 300, 60, 360
	lowX, highX, lowY, highY := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, l := range lines {
		for _, p := range l.points {
			lowX, highX = min(lowX, p.x), max(highX, p.x)
			lowY, highY = min(lowY, p.y), max(highY, p.y)
		}
	}
	lowY, highY = lowY/1.3, highY*1.3
	at := func(p point) (float64, float64) {
		fx := math.Log(p.x/lowX) / max(math.Log(highX/lowX), 1e-9)
		fy := math.Log(p.y/lowY) / max(math.Log(highY/lowY), 1e-9)
		return left + fx*(right-left), bottom - fy*(bottom-top)
	}
	b := openSVG(height, title)
	fmt.Fprintf(b, `<path d="M%d %d V%d H%d" fill="none" stroke="#555"/>`, left, top, bottom, right)
	for _, p := range lines[0].points {
		x, _ := at(point{p.x, lowY})
		fmt.Fprintf(b, `<path d="M%.1f %d v5" stroke="#555"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`, x, bottom, x, bottom+20, grouped(int(p.x)))
	}
	for _, tick := range []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000} {
		if tick < lowY || tick > highY {
			continue
		}
		_, y := at(point{lowX, tick})
		fmt.Fprintf(b, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`, left, y, right, left-8, y+4, tick)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`, (left+right)/2, bottom+44, html.EscapeString(axis))
	for i, l := range lines {
		colour := colours[i%len(colours)]
		path := ""
		for j, p := range l.points {
			x, y := at(p)
			path += fmt.Sprintf("%c%.1f %.1f ", "ML"[min(j, 1)], x, y)
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`, x, y, colour)
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, path, colour)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`, right+20, top+22*i, colour, right+38, top+22*i+11, html.EscapeString(l.label))
	}
	return closeSVG(b)
}

func openSVG(height int, title string) *bytes.Buffer {
	b := &bytes.Buffer{}
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13" fill="#222"><rect width="%d" height="%d" fill="#fff"/><text x="20" y="26" font-size="15" font-weight="600">%s</text>`,
		plotWidth, height, plotWidth, height, html.EscapeString(title))
	return b
}

func closeSVG(b *bytes.Buffer) []byte {
	b.WriteString("</svg>\n")
	return b.Bytes()
}
