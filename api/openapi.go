package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/views/entities"
)

// object is a piece of the OpenAPI document.
type object = map[string]any

// param is one parameter of a route.
type param struct {
	name, in, doc string
	schema        object
	required      bool
}

// response is one answer of a route that is no problem; every route may also
// answer with a problem.
type response struct {
	code  int
	doc   string
	media string // "" if there is no body
	ref   string // schema in the components; "" for any
	lag   bool   // tells how far it may be behind
}

var (
	text   = object{"type": "string"}
	number = object{"type": "integer"}
)

func pathParam(name, doc string) param { return param{name, "path", doc, text, true} }
func queryParam(name, doc string, schema object) param {
	return param{name, "query", doc, schema, false}
}

func jsonOK(doc, ref string) []response {
	return []response{{code: http.StatusOK, doc: doc, media: "application/json", ref: ref}}
}

// withLag has the answers tell how far they may be behind.
func withLag(rs []response) []response {
	for i := range rs {
		rs[i].lag = true
	}
	return rs
}

// table is every route in the order in which paths are matched.
func (a *API) table() []route {
	const get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	rid := pathParam("id", "Id that the request was answered with.")
	letter := pathParam("id", "Id of the letter: <domain>:<partition>:<offset>.")
	source := pathParam("source", "Name of the source, or <domain>.<name> where several domains have one of that name.")
	jid := pathParam("journal", "Journal id of the delivery: <domain>:<partition>:<offset>.")
	entity := []param{pathParam("domain", "Name of the domain."), pathParam("resource", "Name of the resource."), pathParam("id", "Id of the entity.")}
	cursor := queryParam("cursor", "Cursor of a previous page of the same query.", text)
	limit := queryParam("limit", "Number of items in a page.", object{"type": "integer", "minimum": 1, "maximum": maxLimit, "default": defaultLimit})
	include := queryParam("include", "Add the provenance of each field.", object{"type": "string", "enum": []string{"provenance"}})
	wait := func(doc string) param { return queryParam("wait", doc, text) }
	cmd := pathParam("command", "Id of the command.")
	boolean := object{"type": "boolean"}
	listed := []param{
		entity[0], queryParam("status", "Only in this status.", object{"type": "string", "enum": saga.Statuses()}), queryParam("entity", "Only about this entity: <resource>/<id>.", text),
		queryParam("connection", "Only those that called this back end.", text), queryParam("open", "Only those with a failure that is not resolved.", boolean),
		queryParam("attention", "Only those that wait for a person.", boolean),
	}
	order := func(verb, id, summary string, kind saga.OrderKind) route {
		return route{
			method: post, path: "/v1/{domain}/commands/{command}/" + verb, id: id, summary: summary, params: []param{entity[0], cmd},
			body: "application/json", bodyRef: "OrderRequest", bodyDoc: "detail: why; step: which, if several wait for a decision. The body may be left out.",
			responses: []response{{code: http.StatusAccepted, doc: "It is taken; the command tells what comes of it.", media: "application/json", ref: "Command"}}, handle: a.postOrder(kind),
		}
	}
	html := []response{{code: http.StatusOK, doc: "A page.", media: "text/html", ref: ""}}

	return []route{
		{method: post, path: "/v1/ingress/{source}", id: "acceptDelivery", summary: "Take one delivery in. It is durable in the journal when it is answered.",
			params: []param{source, {"Correlation-Id", "header", "Correlation id of the business interaction; the journal id if not given.", text, false}},
			body:   "*/*", bodyDoc: "The delivery, as the source's connector expects it; Content-Encoding gzip is understood.",
			responses: []response{{code: http.StatusAccepted, doc: "In the journal; Location tells what becomes of it.", media: "application/json", ref: "Accepted"}}, handle: a.ingress},
		{method: post, path: "/v1/ingress/{source}/files", id: "acceptFile", summary: "Take a file in, row by row. Accept: application/x-ndjson gives a line of progress now and then.",
			params: []param{source, {"name", "query", "Name of the file.", text, true},
				queryParam("rows", "Control total: the number of rows.", number), queryParam("sha256", "Control total: SHA-256 of the file in hexadecimal.", text),
				queryParam("sums", `Control totals per column that the source sums: a JSON object such as {"amount":"1250.50"}.`, text)},
			body: "*/*", bodyDoc: "The file.", unbounded: true,
			responses: []response{{code: http.StatusAccepted, doc: "Its rows are in the journal.", media: "application/json", ref: "UploadReport"}}, handle: a.upload},
		{method: get, path: "/v1/deliveries/{journal}", id: "getDelivery", summary: "What became of a delivery.",
			params:    []param{jid, wait("Wait so long for the end of it: a duration such as 5s.")},
			responses: withLag(jsonOK("Its status; final says whether anything further will happen.", "DeliveryStatus")), handle: a.deliveryStatus},
		{method: get, path: "/v1/deliveries/{journal}/content", id: "getDeliveryContent", summary: "A delivery as it was received.",
			params: []param{jid}, responses: jsonOK("Metadata and body.", ""), handle: a.deliveryContent},
		{method: get, path: "/v1/trace/{id}", id: "trace", summary: "Everything that belongs to a journal id, event id or correlation id.",
			params: []param{pathParam("id", "The id.")}, responses: jsonOK("Deliveries, changes and events.", "Trace"), handle: a.getTrace},
		{method: get, path: "/v1/events", id: "streamEvents", summary: "Public domain events as server-sent events: id is a position, event the type, data a CloudEvent.",
			params: []param{queryParam("domain", "Only of this domain.", text), queryParam("resource", "Only of this resource.", text), queryParam("type", "Only of this type.", text),
				queryParam("after", "Position to begin behind; Last-Event-ID goes before it.", text),
				{"Last-Event-ID", "header", "Position to begin behind.", text, false}},
			responses: []response{{code: http.StatusOK, doc: "The stream.", media: "text/event-stream", ref: ""}}, unbounded: true, handle: a.getEvents},
		{method: get, path: "/v1/topology", id: "getTopology", summary: "Topics, groups and views with their counters.", responses: jsonOK("The topology.", ""), handle: a.getTopology},
		{method: get, path: "/v1/status", id: "getStatus", summary: "How this process is doing: whether it is ready, what it waits for, its groups, tables and views.", responses: jsonOK("The status.", ""), handle: a.getStatus},
		{method: get, path: "/v1/sources", id: "listSources", summary: "Every source and where it takes deliveries.", responses: jsonOK("The sources.", ""), handle: a.getSources},
		{method: post, path: "/v1/replays", id: "startReplay", summary: "Have a station read a part of its input again, beside its work.",
			body: "application/json", bodyRef: "ReplayRequest",
			bodyDoc:   "station (and domain, if several have it); from: earliest, an RFC 3339 timestamp or PARTITION:OFFSET[,…]; to, not included, by default where the station stands; key of the records; dryRun.",
			responses: []response{{code: http.StatusAccepted, doc: "It is under way; Location tells how far.", media: "application/json", ref: "Replay"}}, handle: a.postReplay},
		{method: get, path: "/v1/replays", id: "listReplays", summary: "The replays that are known, the newest first.", responses: jsonOK("The replays.", ""), handle: a.getReplays},
		{method: get, path: "/v1/replays/{id}", id: "getReplay", summary: "How far a replay has come, and what changed by it.",
			params: []param{rid, wait("Wait so long for the end of it: a duration such as 5s.")}, responses: jsonOK("The replay.", "Replay"), handle: a.getReplay},
		{method: del, path: "/v1/replays/{id}", id: "cancelReplay", summary: "End a replay; what it has done stays.",
			params: []param{rid}, responses: jsonOK("The replay.", "Replay"), handle: a.deleteReplay},
		{method: post, path: "/v1/rebuilds", id: "startRebuild", summary: "Build a table anew beside the live one and compare them.",
			body: "application/json", bodyRef: "RebuildRequest",
			bodyDoc:   "table (and domain, if several have it); from: changelog (the local state of the process that owns it) or journal (its content); swap repairs what differs; examples is how many differences to tell.",
			responses: []response{{code: http.StatusAccepted, doc: "It is under way; Location tells how far.", media: "application/json", ref: "Rebuild"}}, handle: a.postRebuild},
		{method: get, path: "/v1/rebuilds/{id}", id: "getRebuild", summary: "What a rebuild has found.",
			params: []param{rid, wait("Wait so long for the end of it: a duration such as 5s.")}, responses: jsonOK("The rebuild.", "Rebuild"), handle: a.getRebuild},
		{method: get, path: "/v1/dead-letters", id: "listDeadLetters", summary: "Records that failed, the newest first.",
			params: []param{queryParam("domain", "Only of this domain.", text), queryParam("reason", "Only of this kind of failure.", text), queryParam("station", "Only of this station.", text),
				queryParam("source", "Only of this source.", text), queryParam("key", "Only of this record key.", text),
				queryParam("state", "Only in this state.", object{"type": "string", "enum": LetterStates}), cursor, limit},
			responses: jsonOK("A page.", "DeadLetterPage"), handle: a.getLetters},
		{method: get, path: "/v1/dead-letters/{id}", id: "getDeadLetter", summary: "A dead letter with its headers and its record, decoded where that can be done.",
			params: []param{letter}, responses: jsonOK("The letter.", "DeadLetter"), handle: a.getLetter},
		{method: post, path: "/v1/dead-letters/{id}/redrive", id: "redriveDeadLetter", summary: "Have the station try the record again. 409 if that was done before, or has been tried too often.",
			params:    []param{letter, wait("Wait so long for what comes of it: a duration such as 5s."), queryParam("force", "Although it was tried too often.", object{"type": "boolean"})},
			responses: []response{{code: http.StatusAccepted, doc: "It was sent back; state tells what came of it.", media: "application/json", ref: "DeadLetter"}}, handle: a.postRedrive},
		{method: get, path: "/v1/{domain}/definitions/commands", id: "listDeclaredCommands", summary: "The commands that the resources of a domain take, with the schemas of their inputs.",
			params: entity[:1], responses: jsonOK("The commands.", "DeclaredCommands"), handle: a.getDeclared},
		{method: get, path: "/v1/{domain}/commands", id: "listCommands", summary: "Commands that were sent, by id.", params: append(slices.Clone(listed), cursor, limit),
			responses: withLag(jsonOK("A page.", "CommandPage")), handle: a.listCommands},
		{method: get, path: "/v1/{domain}/commands/{command}", id: "getCommand", summary: "A command with its timeline and the calls that were made for it.",
			params:    []param{entity[0], cmd, wait("Wait so long for the end of it: a duration such as 5s."), {"If-None-Match", "header", "Entity tag that is known.", text, false}},
			responses: withLag([]response{{code: http.StatusOK, doc: "The command.", media: "application/json", ref: "Command"}, {code: http.StatusNotModified, doc: "Nothing new."}}), handle: a.getCommand},
		order("cancel", "cancelCommand", "Have a command not carried out: what it has done is undone. 409 once it cannot be cancelled any more.", saga.OrderCancel),
		order("retry", "retryCommand", "Have tried again what waits for a person: what could not be done, or not be undone.", saga.OrderRetry),
		order("abandon", "abandonCommand", "End a command that waits for a person, who sees to the rest.", saga.OrderAbandon),
		order("approve", "approveStep", "Approve a step that waits for a decision.", saga.OrderApprove),
		order("refuse", "refuseStep", "Refuse a step that waits for a decision: the command is undone.", saga.OrderRefuse),
		{method: get, path: "/v1/{domain}/runs", id: "listRuns", summary: "Calls to back ends, of a page of commands.",
			params:    append(slices.Clone(listed), queryParam("state", "Only in this state.", object{"type": "string", "enum": run.States()}), cursor, limit),
			responses: withLag(jsonOK("A page.", "RunPage")), handle: a.listRuns},
		{method: get, path: "/v1/{domain}/runs/{run}", id: "getRun", summary: "One call to a back end with its attempts.", params: []param{entity[0], pathParam("run", "Id of the run.")},
			responses: jsonOK("The run.", "Run"), handle: a.getRun},
		{method: get, path: "/v1/{domain}/failures", id: "listFailures", summary: "Failures of calls to back ends, of a page of commands.", params: append(slices.Clone(listed), cursor, limit),
			responses: withLag(jsonOK("A page.", "FailurePage")), handle: a.listFailures},
		{method: get, path: "/v1/{domain}/failures/{failure}", id: "getFailure", summary: "One failure of a call.", params: []param{entity[0], pathParam("failure", "Id of the failure.")},
			responses: jsonOK("The failure.", "Failure"), handle: a.getFailure},
		{method: get, path: "/v1/{domain}/connections", id: "listConnections", summary: "Back ends that can be asked, and how that goes in this process.", params: entity[:1],
			responses: jsonOK("The connections.", "Connections"), handle: a.listConnections},
		{method: post, path: "/v1/{domain}/connections/{connection}/pause", id: "pauseConnection", summary: "Have no further call made to a back end, in any process; commands wait.",
			params: []param{entity[0], pathParam("connection", "Name of the connection.")}, responses: []response{{code: http.StatusAccepted, doc: "It is paused soon.", media: "application/json", ref: "Switch"}}, handle: a.postSwitch(true)},
		{method: post, path: "/v1/{domain}/connections/{connection}/resume", id: "resumeConnection", summary: "Have calls made again.",
			params: []param{entity[0], pathParam("connection", "Name of the connection.")}, body: "application/json", bodyRef: "SwitchRequest",
			bodyDoc:   "rate: calls in a second until those that wait are through. The body may be left out.",
			responses: []response{{code: http.StatusAccepted, doc: "It goes on soon.", media: "application/json", ref: "Switch"}}, handle: a.postSwitch(false)},
		{method: get, path: "/v1/{domain}/{resource}", id: "listEntities", summary: "Canonical entities by id. Fields declared as filters are query parameters for equality.",
			params: append([]param{entity[0], entity[1], cursor, limit, include}, a.filterParams()...), responses: withLag(jsonOK("A page.", "EntityPage")), handle: a.listEntities},
		{method: get, path: "/v1/{domain}/{resource}/{id}", id: "getEntity", summary: "One canonical entity. 410 if it no longer exists.",
			params: append(slices.Clone(entity), include, wait("Journal id of a delivery that must be visible in the answer."),
				queryParam("timeout", "How long to wait for it at most.", text), param{"If-None-Match", "header", "Entity tag of the version that is known.", text, false}),
			responses: withLag([]response{{code: http.StatusOK, doc: "The entity; ETag is its version.", media: "application/json", ref: "Entity"}, {code: http.StatusNotModified, doc: "Nothing new."}}), handle: a.getEntity},
		{method: get, path: "/v1/{domain}/{resource}/{id}/history", id: "getHistory", summary: "The changes of an entity.",
			params:    append(slices.Clone(entity), cursor, limit, queryParam("order", "Order of versions.", object{"type": "string", "enum": []string{"newest", "oldest"}, "default": "newest"})),
			responses: jsonOK("A page.", "ChangePage"), handle: a.getHistory},
		{method: get, path: "/v1/{domain}/{resource}/{id}/explain", id: "explain", summary: "All claims for a field: who won, who lost and why.",
			params: append(slices.Clone(entity), queryParam("field", "Only this field.", text)), responses: jsonOK("The explanation.", "Explanation"), handle: a.getExplain},
		{method: post, path: "/v1/{domain}/{resource}/{id}/commands", id: "sendCommand", summary: "Send a command about an entity. It is durable, and known to be no copy, when it is answered.",
			params: append(slices.Clone(entity),
				param{"Idempotency-Key", "header", "Your name for the command, 1 to 255 bytes: sent again with the same key and body it is the same command, and gets the same answer. Without it each request is a command of its own.", text, false},
				param{"If-Match", "header", "ETag of the version that the entity must have.", text, false},
				param{"Prefer", "header", "wait=n waits up to n seconds for the end of the command.", text, false},
				param{"Correlation-Id", "header", "Correlation id of the business interaction; the command's id if not given.", text, false}),
			body: "application/json", bodyRef: "CommandRequest", bodyDoc: "Name of the command and its input.",
			responses: []response{{code: http.StatusAccepted, doc: "It is taken; Location tells how far it is.", media: "application/json", ref: "Command"}, {code: http.StatusOK, doc: "It has ended within the time that was preferred.", media: "application/json", ref: "Command"}}, handle: a.postCommand},
		{method: get, path: "/v1/{domain}/{resource}/{id}/commands", id: "listEntityCommands", summary: "Commands about an entity.",
			params: append(slices.Clone(entity), cursor, limit), responses: withLag(jsonOK("A page.", "CommandPage")), handle: a.listEntityCommands},
		{method: get, path: "/openapi.json", id: "getOpenAPI", summary: "This document.", responses: jsonOK("OpenAPI 3.1.", ""), handle: a.getOpenAPI},
		{method: get, path: "/livez", id: "livez", summary: "Whether the process serves.", responses: jsonOK("It does.", ""), handle: a.livez},
		{method: get, path: "/readyz", id: "readyz", summary: "Whether requests should be sent here; 503 tells what is missing.", responses: jsonOK("They should.", ""), handle: a.readyz},
		{method: get, path: "/metrics", id: "metrics", summary: "Metrics for Prometheus.", responses: []response{{code: http.StatusOK, doc: "Text exposition.", media: "text/plain", ref: ""}}, handle: a.metrics},
		{method: get, path: "/", id: "consoleOverview", summary: "Console: the flow with its counters, recent changes, entities.", responses: html, handle: a.consoleOverview},
		{method: get, path: "/console/changes", id: "consoleChanges", summary: "Console: canonical changes in words as server-sent events.",
			responses: []response{{code: http.StatusOK, doc: "The stream.", media: "text/event-stream", ref: ""}}, unbounded: true, handle: a.getChanges},
		{method: get, path: "/console/assets/{file}", id: "consoleAsset", summary: "Console: style and script.", params: []param{pathParam("file", "Name of the file.")},
			responses: []response{{code: http.StatusOK, doc: "The file.", media: "*/*", ref: ""}}, handle: a.consoleAsset},
		{method: get, path: "/console/{domain}/{resource}", id: "consoleList", summary: "Console: entities of a resource.",
			params: []param{entity[0], entity[1], cursor}, responses: html, handle: a.consoleList},
		{method: get, path: "/console/{domain}/{resource}/{id}", id: "consoleEntity", summary: "Console: one entity with provenance and history.", params: entity, responses: html, handle: a.consoleEntity},
	}
}

// filterParams documents the filter fields of all resources; which of them a
// list takes depends on its resource.
func (a *API) filterParams() []param {
	of := map[string][]string{}
	for _, d := range a.Domains {
		for _, r := range d.Definition.Resources {
			for _, f := range entities.Filters(r) {
				if !slices.Contains(listParams, f) {
					of[f] = append(of[f], d.Definition.Name+"/"+r.Name)
				}
			}
		}
	}
	var params []param
	for name, where := range of {
		params = append(params, queryParam(name, "Equality filter of "+strings.Join(where, ", ")+".", text))
	}
	slices.SortFunc(params, func(x, y param) int { return strings.Compare(x.name, y.name) })
	return params
}

// document writes the OpenAPI 3.1 document of the table and the definitions.
func (a *API) document() ([]byte, error) {
	paths := object{}
	for _, r := range a.routes {
		item, _ := paths[r.path].(object)
		if item == nil {
			item = object{}
			paths[r.path] = item
		}
		item[strings.ToLower(r.method)] = operation(r)
	}
	version := a.Version
	if version == "" {
		version = "development"
	}
	return json.MarshalIndent(object{
		"openapi":    "3.1.0",
		"info":       object{"title": "Touchstone", "version": version, "description": "A virtual system of record over Kafka: canonical entities with the provenance of every field."},
		"paths":      paths,
		"components": object{"schemas": a.schemas()},
	}, "", "  ")
}

func operation(r route) object {
	op := object{"operationId": r.id, "summary": r.summary}
	var params []object
	for _, p := range r.params {
		params = append(params, object{"name": p.name, "in": p.in, "description": p.doc, "required": p.required, "schema": p.schema})
	}
	if params != nil {
		op["parameters"] = params
	}
	if r.body != "" {
		media := object{}
		if r.bodyRef != "" {
			media["schema"] = ref(r.bodyRef)
		}
		op["requestBody"] = object{"required": !strings.Contains(r.bodyDoc, "may be left out"), "description": r.bodyDoc, "content": object{r.body: media}}
	}
	responses := object{"default": object{"description": "A problem (RFC 9457).", "content": object{"application/problem+json": object{"schema": ref("Problem")}}}}
	for _, x := range r.responses {
		answer := object{"description": x.doc}
		if x.media != "" {
			content := object{}
			if x.ref != "" {
				content["schema"] = ref(x.ref)
			}
			answer["content"] = object{x.media: content}
		}
		if x.lag {
			answer["headers"] = object{lagHeader: object{
				"description": "How far the answer may be behind what is committed (RFC 9651): seconds since it was not behind at all, and as the parameter records the places of the log that are missing at most. 0.0;records=0 is the rule; reads go on while partitions move or are restored.",
				"schema":      text,
			}}
		}
		responses[strconv.Itoa(x.code)] = answer
	}
	op["responses"] = responses
	return op
}

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func list(items object) object { return object{"type": "array", "items": items} }

func record(required []string, properties object) object {
	o := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func (a *API) schemas() object {
	instant := object{"type": []string{"string", "null"}, "format": "date-time"}
	boolean := object{"type": "boolean"}
	s := object{
		"Problem": record([]string{"type", "title", "status", "code"}, object{
			"type": text, "title": text, "status": number, "detail": text, "instance": text, "code": text, "traceId": text,
			"errors": list(record([]string{"detail", "pointer"}, object{"detail": text, "pointer": text})),
		}),
		"Accepted": record([]string{"journal", "location", "correlation"}, object{"journal": text, "location": text, "correlation": text}),
		"UploadReport": record([]string{"source", "file", "rows", "journaled", "quarantined", "errors"}, object{
			"source": text, "file": text, "sha256": text, "bytes": number, "rows": number, "journaled": number, "quarantined": number,
			"errors": list(record([]string{"row", "reason"}, object{"row": number, "column": text, "reason": text})),
			"first":  text, "last": text, "correlation": text,
		}),
		"Outcome": record([]string{"journal", "index", "disposition"}, object{
			"journal": text, "index": number, "signals": number, "disposition": text, "source": text, "reason": text, "detail": text, "first": text,
			"tenant": text, "resource": text, "entity": text, "version": number, "events": list(text), "correlation": text, "at": instant,
		}),
		"DeliveryStatus": record([]string{"journal", "disposition", "final", "signals"}, object{
			"journal":     text,
			"disposition": object{"type": "string", "enum": []string{"accepted", "change", "no-change", "duplicate", "conflict", "ignored", "dead-letter"}},
			"final":       boolean, "expected": number, "signals": list(ref("Outcome")), "source": text, "tenant": text, "reason": text, "detail": text,
			"first": text, "correlation": text, "at": instant,
		}),
		"Provenance": record(nil, object{"source": text, "sourceKey": text, "occurredAt": instant, "receivedAt": instant, "signal": text, "sinceVersion": number, "confidence": object{"type": "number"}}),
		"Change": record([]string{"resource", "id", "version", "kind", "changed"}, object{
			"tenant": text, "resource": text, "id": text, "version": number, "kind": text, "fromState": text, "toState": text,
			"changed": list(record([]string{"name"}, object{"name": text, "before": object{}, "after": object{}, "source": text, "sourceKey": text})),
			"after":   list(record([]string{"name", "value"}, object{"name": text, "value": object{}})),
			"events":  object{"type": []string{"array", "null"}, "items": record([]string{"id", "type"}, object{"id": text, "type": text})},
			"signal":  text, "journal": text, "source": text, "occurredAt": instant, "receivedAt": instant, "definition": text,
			"cause": record(nil, object{"correlation": text, "causation": text, "traceparent": text}),
		}),
		"ChangePage": record([]string{"items"}, object{"items": list(ref("Change")), "cursor": text, "next": text}),
		"EntityPage": record([]string{"items"}, object{"items": list(ref("Entity")), "cursor": text, "next": text}),
		"Explanation": record([]string{"domain", "resource", "id", "fields"}, object{"domain": text, "resource": text, "id": text, "version": number, "exists": boolean, "fields": list(record(
			[]string{"field", "rule", "claims"}, object{"field": text, "value": object{}, "rule": text, "confidence": object{"type": "number"}, "claims": list(record(
				[]string{"source", "won", "reason"}, object{"source": text, "sourceKey": text, "value": object{}, "won": boolean, "reason": text, "occurredAt": instant, "receivedAt": instant, "signal": text},
			))}))}),
		"Trace": record([]string{"id", "deliveries", "changes", "events"}, object{"id": text, "deliveries": list(object{"type": "object"}), "changes": list(ref("Change")), "events": list(object{"type": "object"}), "truncated": boolean}),
	}
	a.repairSchemas(s, instant, boolean)
	var of []object
	for _, d := range a.Domains {
		for _, r := range d.Definition.Resources {
			name := pascal(d.Definition.Name) + pascal(r.Name)
			s[name] = entitySchema(r, instant)
			of = append(of, ref(name))
		}
	}
	a.commandSchemas(s, instant, object{"type": "boolean"})
	s["Entity"] = object{"type": "object"}
	if len(of) > 0 {
		s["Entity"] = object{"anyOf": of}
	}
	return s
}

// repairSchemas adds what replays, rebuilds and dead letters look like.
func (a *API) repairSchemas(s, instant, boolean object) {
	counts := object{"type": "object", "additionalProperties": number}
	s["ReplayRequest"] = record([]string{"station", "from"}, object{"station": text, "domain": text, "from": text, "to": text, "key": text, "dryRun": boolean})
	s["Replay"] = record([]string{"id", "domain", "station", "group", "dryRun", "state", "read", "total", "partitions", "stations", "changes", "events"}, object{
		"id": text, "domain": text, "station": text, "group": text, "key": text, "dryRun": boolean, "at": instant,
		"state": object{"type": "string", "enum": []string{"running", "settling", "done", "cancelled", "failed"}}, "error": text, "read": number, "total": number,
		"partitions": list(record([]string{"topic", "partition", "from", "to", "next"}, object{"topic": text, "partition": number, "from": number, "to": number, "next": number, "error": text})),
		"stations": list(record([]string{"station", "records", "changes", "noChange", "duplicates", "deadLetters", "events", "state", "emitted"}, object{
			"station": text, "records": number, "changes": number, "noChange": number, "duplicates": number, "deadLetters": number, "events": number, "state": number, "emitted": counts,
		})),
		"changes": number, "events": number, "failures": list(text), "unsettled": list(text),
	})
	s["RebuildRequest"] = record([]string{"table"}, object{
		"table": text, "domain": text, "from": object{"type": "string", "enum": []string{"changelog", "journal"}, "default": "changelog"},
		"swap": boolean, "examples": object{"type": "integer", "minimum": 0, "maximum": maxExamples, "default": defaultExamples},
	})
	s["Rebuild"] = record([]string{"id", "domain", "table", "from", "swap", "state", "records", "keys", "missing", "extra", "different", "repaired", "overtaken", "examples"}, object{
		"id": text, "domain": text, "table": text, "from": text, "swap": boolean, "at": instant, "state": object{"type": "string", "enum": []string{"running", "done", "failed"}}, "error": text,
		"records": number, "keys": number, "missing": number, "extra": number, "different": number, "repaired": number, "overtaken": number,
		"examples": list(record([]string{"key", "partition", "kind"}, object{"key": text, "partition": number, "kind": object{"type": "string", "enum": []string{"missing", "extra", "different"}}, "live": object{}, "rebuilt": object{}})),
	})
	s["DeadLetter"] = record([]string{"id", "domain", "station", "group", "reason", "message", "key", "at", "attempt", "topic", "partition", "offset", "bytes", "state"}, object{
		"id": text, "domain": text, "station": text, "group": text, "reason": text, "message": text, "stage": text, "source": text, "key": text, "at": instant, "attempt": number,
		"topic": text, "partition": number, "offset": number, "bytes": number, "previous": text, "next": text, "replay": text,
		"state": object{"type": "string", "enum": LetterStates}, "detail": text, "headers": object{"type": "object", "additionalProperties": text},
		"content": object{"type": "object"}, "decoded": object{}, "decodeError": text, "valueOmitted": boolean,
	})
	s["DeadLetterPage"] = record([]string{"items"}, object{"items": list(ref("DeadLetter")), "cursor": text, "next": text})
}

// commandSchemas adds what commands, and the calls that are made for them, look
// like. Each command that is declared has the schema of its request.
func (a *API) commandSchemas(s, instant, boolean object) {
	enum := func(values any) object { return object{"type": "string", "enum": values} }
	maybe := object{"anyOf": []object{instant, {"type": "null"}}}
	statuses := enum(saga.Statuses())
	var requests []object
	for _, d := range a.Domains {
		for _, r := range d.Definition.Resources {
			for _, c := range r.Commands {
				name := pascal(d.Definition.Name) + c.Name + "Request"
				s[name] = record([]string{"name"}, object{"name": object{"type": "string", "const": c.Name}, "input": inputSchema(c)})
				requests = append(requests, ref(name))
			}
		}
	}
	s["CommandRequest"] = record([]string{"name"}, object{"name": text, "input": object{"type": "object"}})
	if len(requests) > 0 {
		s["CommandRequest"] = object{"oneOf": requests}
	}
	failed := record([]string{"id", "kind", "detail", "action", "at", "resolved"}, object{
		"id": text, "kind": enum(failure.Kinds()), "detail": text, "action": enum([]run.Action{run.Retry, run.DeadLetter, run.Escalate}), "at": instant, "resolved": maybe, "by": text,
	})
	s["Run"] = record([]string{"id", "command", "step", "first", "connection", "operation", "state", "began", "ended", "attempts"}, object{
		"id": text, "command": text, "step": text, "undo": boolean, "first": number, "connection": text, "operation": text, "state": enum(run.States()), "began": maybe, "ended": maybe,
		"attempts": list(record([]string{"number", "began", "ended", "request"}, object{
			"number": number, "began": maybe, "ended": maybe, "status": number, "latency": object{"type": "integer", "description": "Nanoseconds."}, "uncertain": boolean, "request": text, "response": text, "failure": failed,
		})),
	})
	s["Failure"] = record([]string{"id", "kind", "detail", "action", "at", "resolved", "run", "command", "connection", "operation", "attempt", "open"}, object{
		"id": text, "kind": enum(failure.Kinds()), "detail": text, "action": enum([]run.Action{run.Retry, run.DeadLetter, run.Escalate}), "at": instant, "resolved": maybe, "by": text,
		"run": text, "command": text, "connection": text, "operation": text, "attempt": number, "open": boolean,
	})
	reason := record([]string{"kind", "detail"}, object{"step": text, "kind": enum(failure.Kinds()), "detail": text, "wished": boolean})
	s["Command"] = record([]string{"id", "command", "resource", "entity", "status", "final", "principal", "correlation", "acceptedAt", "beganAt", "endedAt", "steps", "location"}, object{
		"id": text, "command": text, "resource": text, "entity": text, "status": statuses, "final": boolean, "principal": text, "correlation": text, "reason": reason, "ifVersion": number,
		"acceptedAt": maybe, "beganAt": maybe, "endedAt": maybe, "decisions": list(text), "location": text,
		"steps": list(record([]string{"name", "phase", "attempts"}, object{
			"name": text, "phase": enum(saga.Phases()), "attempts": number, "held": boolean, "undo": enum(saga.Phases()), "uncertain": boolean, "failure": text,
		})),
		"timeline": list(record([]string{"at", "status"}, object{"at": instant, "status": statuses, "text": text})), "runs": list(ref("Run")),
	})
	for name, of := range map[string]string{"CommandPage": "Command", "RunPage": "Run", "FailurePage": "Failure"} {
		s[name] = record([]string{"items"}, object{"items": list(ref(of)), "cursor": text, "next": text})
	}
	s["OrderRequest"] = record(nil, object{"step": text, "detail": text})
	s["SwitchRequest"] = record(nil, object{"rate": object{"type": "number", "minimum": 0}})
	s["Switch"] = record([]string{"connection", "paused", "by", "at"}, object{"connection": text, "paused": boolean, "rate": object{"type": "number"}, "by": text, "at": instant})
	s["Connections"] = record([]string{"items"}, object{"items": list(record([]string{"name", "connector", "state", "here", "queued", "running", "calls", "failures", "operations"}, object{
		"name": text, "doc": text, "connector": text, "source": text, "state": enum([]string{"active", "degraded", "paused"}), "here": boolean,
		"queued": number, "running": number, "calls": number, "failures": number, "lastFailure": text, "operations": list(text),
	}))})
	s["DeclaredCommands"] = record([]string{"items"}, object{"items": list(record([]string{"name", "resource", "conflict", "plan", "deadline", "input", "stages"}, object{
		"name": text, "resource": text, "doc": text, "derived": boolean, "conflict": text, "plan": text, "requires": text, "confirms": text, "deadline": text, "input": object{"type": "object"}, "stages": list(list(text)),
	}))})
}

func entitySchema(r *definition.Resource, instant object) object {
	fields := object{}
	for _, f := range r.Fields {
		t := typeSchema(f.Type)
		if f.Doc != "" {
			t["description"] = f.Doc
		}
		fields[f.Name] = object{"anyOf": []object{t, {"type": "null"}}}
	}
	o := record([]string{"id", "resource", "version", "fields"}, object{
		"id": text, "resource": object{"type": "string", "const": r.Name}, "version": object{"type": "integer", "minimum": 1}, "state": text,
		"createdAt": instant, "updatedAt": instant, "fields": record(nil, fields),
		"provenance": object{"type": "object", "additionalProperties": ref("Provenance")},
	})
	if r.Doc != "" {
		o["description"] = r.Doc
	}
	return o
}

// typeSchema is the JSON Schema of a declared type.
func typeSchema(t canonical.Type) object {
	switch t.Kind {
	case canonical.KindInt:
		return object{"type": "integer", "format": "int64"}
	case canonical.KindFloat:
		return object{"type": "number", "format": "double"}
	case canonical.KindDecimal:
		return object{"type": "string", "pattern": `^-?[0-9]+(\.[0-9]+)?$`}
	case canonical.KindBool:
		return object{"type": "boolean"}
	case canonical.KindDate:
		return object{"type": "string", "format": "date"}
	case canonical.KindTimestamp:
		return object{"type": "string", "format": "date-time"}
	case canonical.KindBytes:
		return object{"type": "string", "contentEncoding": "base64"}
	case canonical.KindEnum:
		return object{"type": "string", "enum": t.Symbols}
	case canonical.KindList:
		return list(typeSchema(*t.Elem))
	case canonical.KindMap:
		return object{"type": "object", "additionalProperties": typeSchema(*t.Elem)}
	case canonical.KindRecord:
		fields := object{}
		for _, f := range t.Fields {
			fields[f.Name] = typeSchema(f.Type)
		}
		return record(nil, fields)
	case canonical.KindJSON:
		return object{}
	}
	return object{"type": "string"}
}

// pascal makes a schema name of words joined by hyphens.
func pascal(s string) string {
	var b strings.Builder
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return r == '-' || r == '_' || r == '.' }) {
		b.WriteString(strings.ToUpper(w[:1]) + w[1:])
	}
	return b.String()
}
