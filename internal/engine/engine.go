package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/touchstone-platform/touchstone/views"
)

// Engine runs the processors, views and feeds of one process over one Pebble
// folder. Declare everything, then Run, then Close.
type Engine struct {
	cfg     Config
	db      *database
	kafka   *kafka
	metrics *metrics
	caches  cacheBudget

	mu         sync.Mutex
	running    bool
	tables     []*table
	processors []*processor
	views      []*view
	feeds      []*feed
	outlets    []*outlet
	controls   []*controlLog
}

// New opens the local state and makes the clients. It does not talk to Kafka
// yet: see WaitReady. A folder in use by another process is an error; a folder
// that cannot be read is moved aside and rebuilt.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	db, err := openDatabase(&cfg)
	if err != nil {
		return nil, err
	}
	k, err := newKafka(&cfg)
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	e := &Engine{cfg: cfg, db: db, kafka: k, metrics: m, caches: cacheBudget{bytes: cfg.StateCacheBytes}}
	if err := cfg.Metrics.Register(lagCollector{e}); err != nil {
		return nil, errors.Join(fmt.Errorf("register metrics: %w", err), e.Close())
	}
	return e, nil
}

var errRunning = errors.New("engine is running: everything is declared before Run")

// AddProcessor declares a processor.
func (e *Engine) AddProcessor(spec Processor) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return errRunning
	}
	for _, p := range e.processors {
		if p.spec.Group == spec.Group {
			return fmt.Errorf("processor %q is declared twice", spec.Group)
		}
	}
	e.processors = append(e.processors, newProcessor(e, spec))
	return nil
}

// AddView declares a view and gives what reads it.
func (e *Engine) AddView(v views.View) (views.Reader, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return nil, errRunning
	}
	if v.Name() == "" || v.Topic() == "" {
		return nil, fmt.Errorf("view %q of topic %q: expected a name and a topic", v.Name(), v.Topic())
	}
	if e.named(v.Name()) {
		return nil, fmt.Errorf("view %q is declared twice", v.Name())
	}
	w := newView(e, v)
	e.views = append(e.views, w)
	return w, nil
}

// named tells whether a view or an index of the name is declared.
func (e *Engine) named(name string) bool {
	for _, v := range e.views {
		if v.name == name {
			return true
		}
	}
	for _, t := range e.tables {
		if t.indexed() && t.index.spec.Name() == name {
			return true
		}
	}
	return false
}

// Run works until ctx ends, then commits what was handed out, stops and makes
// local state durable. It gives an error only if it cannot work at all: what
// fails meanwhile is logged, shown by Status and tried again.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return errors.New("engine is running already")
	}
	e.running = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.running = false
		e.mu.Unlock()
	}()
	for {
		cause := e.runUntilCorrupt(ctx)
		if cause == nil {
			return e.db.flush()
		}
		if err := e.db.reopen(cause); err != nil {
			return err
		}
	}
}

// runUntilCorrupt runs everything until ctx ends, which gives nil, or local
// state turns out to be corrupt.
func (e *Engine) runUntilCorrupt(ctx context.Context) (cause error) {
	all, cancel := context.WithCancel(ctx)
	defer cancel()
	e.db.disk.waitUntil(all)
	var wg sync.WaitGroup
	labelled := func(part string, run func(context.Context)) {
		// A CPU profile then tells whose work it saw: goroutines inherit labels.
		wg.Go(func() { pprof.Do(all, pprof.Labels("part", part), run) })
	}
	for _, t := range e.tables {
		t.begin()
		labelled("table "+t.topic, t.run)
	}
	for _, p := range e.processors {
		labelled(p.spec.Group, p.run)
	}
	for _, v := range e.views {
		labelled("view "+v.name, v.run)
	}
	for _, f := range e.feeds {
		labelled("feed "+f.spec.Group, f.run)
	}
	for _, o := range e.outlets {
		labelled("outlet "+o.spec.Group, o.run)
	}
	for _, c := range e.controls {
		labelled("control "+c.topic, c.run)
	}
	select {
	case <-ctx.Done():
	case cause = <-e.db.found():
		cancel()
	}
	wg.Wait()
	return cause
}

// Ready gives nil if every processor has recovered its tables, every view has
// caught up and there is room on the disk; else an error that names all that have not.
func (e *Engine) Ready() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running {
		return errors.New("engine is not running")
	}
	errs := []error{e.db.disk.err()}
	for _, p := range e.processors {
		errs = append(errs, p.status.ready())
	}
	for _, t := range e.tables {
		errs = append(errs, t.ready())
	}
	for _, v := range e.views {
		errs = append(errs, v.ready())
	}
	return errors.Join(errs...)
}

// Status tells how each group, table and view is doing.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	var s Status
	for _, p := range e.processors {
		s.Groups = append(s.Groups, p.status.snapshot())
	}
	now := time.Now()
	for _, t := range e.tables {
		s.Tables = append(s.Tables, t.status(now))
		if t.indexed() {
			s.Views = append(s.Views, t.viewStatus())
		}
	}
	for _, v := range e.views {
		s.Views = append(s.Views, v.status())
	}
	return s
}

// Close makes local state durable and closes it and the shared clients. A
// clean restart then replays nothing. Run must have returned. Readers of views
// get an error from now on.
func (e *Engine) Close() error {
	e.kafka.close()
	return e.db.close()
}
