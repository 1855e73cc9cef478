package app

import (
	"context"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/connectors/file"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/door"
	"github.com/touchstone-platform/touchstone/topology"
)

// doorway is the door as the API wants it.
type doorway struct {
	door  *door.Door
	spool string
}

func (w *doorway) Accept(ctx context.Context, d api.Delivery) (journal.ID, error) {
	return w.door.Receive(ctx, d.Domain, d.Source, d.Tenant, d.Delivery, d.Cause)
}

func (w *doorway) AcceptFile(ctx context.Context, u api.Upload, progress func(api.UploadProgress)) (api.UploadReport, error) {
	i, err := w.door.Intake(u.Domain, u.Source)
	if err != nil {
		return api.UploadReport{}, err
	}
	f := door.File{Name: u.Name, Body: u.Body, Spool: w.spool, Cause: u.Cause}
	if u.Rows >= 0 || u.SHA256 != "" || len(u.Sums) > 0 {
		f.Manifest = &file.Manifest{SHA256: u.SHA256, Sums: u.Sums}
		if u.Rows >= 0 {
			f.Manifest.Rows = &u.Rows
		}
	}
	r, err := w.door.TakeFile(ctx, i, u.Tenant, f, func(p door.FileProgress) { progress(api.UploadProgress(p)) })
	report := api.UploadReport{
		Source: u.Source, File: u.Name, UploadProgress: api.UploadProgress(r.FileProgress),
		First: r.First, Last: r.Last, Correlation: u.Cause.Correlation,
	}
	if r.Refused != nil {
		report.Refused = r.Refused.Error()
	}
	if in := r.Inspection; in != nil {
		report.SHA256, report.Sums = in.SHA256, in.Sums
		for _, e := range in.Errors[:min(len(in.Errors), 100)] {
			report.Errors = append(report.Errors, api.RowError{Row: e.Row, Column: e.Name, Reason: string(e.Code) + ": " + e.Reason})
		}
	}
	return report, err
}

// journalReader reads raw entries by position.
type journalReader struct{ a *App }

func (r journalReader) Entry(ctx context.Context, id journal.ID) (*journal.Entry, error) {
	topic := topology.Journal(id.Domain)
	t, ok := r.a.topology.Topic(topic)
	if !ok || int(id.Partition) >= t.Partitions {
		return nil, failure.New(failure.NotFound, "read journal", id.String(), "there is no such position")
	}
	rec, err := r.a.engine.ReadAt(ctx, topic, id.Partition, id.Offset)
	if err != nil {
		return nil, err
	}
	c, err := r.a.platform.Codec(topic)
	if err != nil {
		return nil, err
	}
	v, err := c.Decode(rec.Value)
	if err != nil {
		return nil, err
	}
	return v.(*journal.Entry), nil
}
