package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Oracle: a definition that declares a field as a filter only later can filter
// by it for what was there before: the view is rebuilt. Fields and rules that
// are added apply to the entities with their next fact.
func TestDefinitionChanges(t *testing.T) {
	dir := t.TempDir()
	row := func(id int, name string, at int) change {
		return change{[]byte(fmt.Sprintf(`{"id":%d}`, id)), []byte(fmt.Sprintf(`{"before":null,"after":{"id":%d,"name":%q,"colour":"red"},"source":{"table":"t","ts_ms":%d},"op":"u","ts_ms":1}`, id, name, at))}
	}
	s := start(t, dir, define(t, products))
	if a := s.get("/v1/products/row?name=a"); a.status != 400 {
		t.Errorf("a filter that is not declared: %d %s", a.status, a.body)
	}
	s.capture(s.kafka(), row(1, "a", 1), row(2, "b", 1))
	s.settle("products", 2, 30*time.Second)
	s.stop()

	changed := strings.NewReplacer(
		"name: {type: string, authority: [db]}", "name: {type: string, authority: [db], filter: true}",
		"value: {type: string, authority: [db]}", "value: {type: string, authority: [db]}\n      colour: {type: string, authority: [db]}",
		"?value: row.value", "?value: row.value\n          ?colour: row.colour",
	).Replace(products)
	again := start(t, dir, define(t, changed))
	if a := again.get("/v1/products/row?name=a"); a.status != 200 || len(a.json["items"].([]any)) != 1 {
		t.Errorf("a filter that was declared later: %d %s", a.status, a.body)
	}
	again.capture(again.kafka(), row(1, "a", 2))
	again.settle("products", 3, 30*time.Second)
	for _, e := range again.list("products", "row") {
		f := e["fields"].(map[string]any)
		if want := map[any]any{float64(1): "red", float64(2): nil}[f["id"]]; f["colour"] != want {
			t.Errorf("row %v has colour %v, expected %v", f["id"], f["colour"], want)
		}
	}
}
