package codecs

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/run"
)

// Headers of a public event: CloudEvents 1.0, Kafka protocol binding, binary mode.
// Attributes are prefixed, extensions too; traceparent stands there a second time
// under its own name, where tracing libraries look for it.
const (
	HeaderSpecVersion   = "ce_specversion"
	HeaderID            = "ce_id"
	HeaderSource        = "ce_source"
	HeaderType          = "ce_type"
	HeaderTime          = "ce_time"
	HeaderSubject       = "ce_subject"
	HeaderDataSchema    = "ce_dataschema"
	HeaderContentType   = "content-type"
	HeaderCorrelationID = "ce_correlationid"
	HeaderCausationID   = "ce_causationid"
	HeaderTraceparent   = "ce_traceparent"
	HeaderSequence      = "ce_sequence"
	HeaderRecordedTime  = "ce_recordedtime"
)

// ActivityHeaders gives the CloudEvents headers of what a domain tells of its
// commands, the same each time:
//
//	ce_specversion   1.0
//	ce_id            the id of the event
//	ce_source        /<domain>/commands
//	ce_type          touchstone.platform.v1.CommandCompleted and so on
//	ce_time          when it happened
//	ce_subject       the id of the command, the run or the failure
//	content-type     application/avro
//	ce_correlationid, ce_causationid, ce_traceparent, traceparent   where known
//	tenant           the tenant
func ActivityHeaders(domain string, e *run.Activity) map[string][]byte {
	h := make(map[string][]byte, 12)
	put := func(name, value string) {
		if value != "" {
			h[name] = []byte(value)
		}
	}
	put(HeaderSpecVersion, "1.0")
	put(HeaderID, e.ID)
	put(HeaderSource, "/"+domain+"/commands")
	put(HeaderType, "touchstone.platform.v1."+string(e.Type))
	put(HeaderTime, e.At.String())
	put(HeaderSubject, cmp.Or(e.Failure, e.Run, e.Command))
	put(HeaderContentType, "application/avro")
	put(HeaderCorrelationID, e.Cause.Correlation)
	put(HeaderCausationID, e.Cause.Causation)
	put(HeaderTraceparent, e.Cause.Traceparent)
	put(envelope.HeaderTraceparent, e.Cause.Traceparent)
	tenant, _, _ := strings.Cut(e.Key, "/")
	put(envelope.HeaderTenant, tenant)
	return h
}

// Headers gives the CloudEvents headers of a public event, the same each time:
//
//	ce_specversion    1.0
//	ce_id             the event id: version 5 UUID of entity, version and type
//	ce_source         /<domain>/<resource>
//	ce_type           the record's full name: customer.management.v1.CustomerActivated
//	ce_time           when it happened in the source; when it was journaled if unknown
//	ce_subject        the entity id
//	ce_dataschema     URI of the schema in the registry
//	content-type      application/avro
//	ce_correlationid, ce_causationid, ce_traceparent   where known
//	ce_sequence       the entity version in 19 digits: the extension wants strings
//	                  whose order is that of the events
//	ce_recordedtime   when it was journaled
//	traceparent       as ce_traceparent
//	tenant            the tenant
func (c *EventCodec) Headers(e PublicEvent) map[string][]byte {
	ch := e.Change
	at := ch.OccurredAt
	if at == 0 {
		at = ch.ReceivedAt
	}
	h := make(map[string][]byte, 16)
	put := func(name, value string) {
		if value != "" {
			h[name] = []byte(value)
		}
	}
	put(HeaderSpecVersion, "1.0")
	put(HeaderID, e.Ref.ID)
	put(HeaderSource, "/"+c.domain+"/"+ch.Resource)
	put(HeaderType, EventName(c.domain, e.Ref.Type))
	put(HeaderTime, at.String())
	put(HeaderSubject, ch.ID)
	put(HeaderDataSchema, c.DataSchema(e.Ref.Type))
	put(HeaderContentType, "application/avro")
	put(HeaderCorrelationID, ch.Cause.Correlation)
	put(HeaderCausationID, ch.Cause.Causation)
	put(HeaderTraceparent, ch.Cause.Traceparent)
	put(HeaderSequence, fmt.Sprintf("%019d", ch.Version))
	put(HeaderRecordedTime, ch.ReceivedAt.String())
	put(envelope.HeaderTraceparent, ch.Cause.Traceparent)
	put(envelope.HeaderTenant, ch.Tenant)
	return h
}
