package viewtest_test

import (
	"testing"

	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/views"
)

func TestMemoryConforms(t *testing.T) {
	viewtest.Conformance(t, func(t *testing.T, v views.View) viewtest.Keeper { return viewtest.New(v, 3) })
}

func TestTable(t *testing.T) {
	viewtest.TableConformance(t, func(t *testing.T) viewtest.TableKeeper { return viewtest.NewTable(viewtest.Words{}, 3) })
}
