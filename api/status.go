package api

import (
	"net/http"

	"github.com/touchstone-platform/touchstone/topology"
)

// topologyView is the declared topology with the counters of the moment.
type topologyView struct {
	Version  string             `json:"version,omitempty"`
	Topology *topology.Topology `json:"topology"`
	Stats    Stats              `json:"stats"`
}

func (a *API) getTopology(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return answer(w, http.StatusOK, topologyView{a.Version, a.Topology, a.Stats()})
}

// statusView is how this process is doing.
type statusView struct {
	Version string `json:"version,omitempty"`
	Ready   bool   `json:"ready"`
	// Waiting lists what the process waits for.
	Waiting []string              `json:"waiting"`
	Groups  map[string]GroupStats `json:"groups"`
	Tables  map[string]TableStats `json:"tables"`
	Views   map[string]ViewStats  `json:"views"`
}

func (a *API) getStatus(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	s, missing := a.Stats(), a.Missing()
	if missing == nil {
		missing = []string{}
	}
	return answer(w, http.StatusOK, statusView{a.Version, len(missing) == 0, missing, s.Groups, s.Tables, s.Views})
}

type sourceView struct {
	Source
	// Ingress is where it takes deliveries or files; empty if it takes none.
	Ingress string      `json:"ingress,omitempty"`
	Stats   SourceStats `json:"stats"`
}

func (a *API) getSources(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return answer(w, http.StatusOK, map[string]any{"items": a.sources()})
}

func (a *API) sources() []sourceView {
	stats, names := a.Stats(), map[string]int{}
	for _, s := range a.Sources {
		names[s.Name]++
	}
	items := make([]sourceView, 0, len(a.Sources))
	for _, s := range a.Sources {
		v := sourceView{Source: s, Stats: stats.Sources[s.Domain+"."+s.Name]}
		segment := s.Name
		if names[s.Name] > 1 {
			segment = s.Domain + "." + s.Name
		}
		switch {
		case s.Deliveries:
			v.Ingress = "/v1/ingress/" + segment
		case s.Files:
			v.Ingress = "/v1/ingress/" + segment + "/files"
		}
		items = append(items, v)
	}
	return items
}

// livez tells that the process serves; it looks at nothing else, so that a
// broken dependency does not restart it.
func (a *API) livez(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, map[string]string{"status": "alive"})
}

// readyz tells whether requests should be sent here, and if not what is missing.
func (a *API) readyz(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	missing := a.Missing()
	if len(missing) == 0 {
		return answer(w, http.StatusOK, map[string]string{"status": "ready"})
	}
	p := problem(http.StatusServiceUnavailable, "not-ready", "waiting for what errors lists").retry(1)
	for _, m := range missing {
		p.at("", m)
	}
	return p
}

func (a *API) metrics(w http.ResponseWriter, r *http.Request) error {
	a.Metrics.ServeHTTP(w, r)
	return nil
}

func (a *API) getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	write(w, http.StatusOK, a.openapi)
	return nil
}
