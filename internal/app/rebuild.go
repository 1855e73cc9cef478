package app

import (
	"context"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

type rebuild struct{}

func (r *repairs) StartRebuild(ctx context.Context, q api.RebuildQuery) (string, error) {
	return "", failure.New(failure.NotFound, "rebuild", q.Table, "not there")
}

func (r *repairs) Rebuild(ctx context.Context, id string) (*api.Rebuild, error) {
	return nil, failure.New(failure.NotFound, "rebuild", id, "there is none of this id")
}
