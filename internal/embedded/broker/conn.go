package broker

import (
	"encoding/binary"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The answers to produce requests are held back on the connection. kfake writes
// a batch to its file before it answers, and reads and writes each request and
// answer through net.Conn, so a connection that understands the framing can do
// the sync in between, without kfake knowing and without holding up other
// connections:
//
//	client ──produce──▶ Read (note the partitions) ──▶ kfake: write(2), answer
//	client ◀──answer─── Write (wait for the sync of these partitions) ◀──┘
//
// A request frame is: size (int32), api key (int16), version (int16),
// correlation id (int32), client id (nullable string), tagged fields where the
// request is flexible, body. An answer frame is: size, correlation id, rest;
// kfake writes each in one call.

type listener struct {
	net.Listener
	b *Broker
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, b: l.b, duties: make(map[int32]duty)}, nil
}

// duty is what must be done before an answer may leave.
type duty struct {
	sync   []partitionKey
	forget bool                 // topics were deleted: what is known about files is void
	refuse *kmsg.ProduceRequest // answered with an error if it cannot be done; its records are not kept
}

func (d duty) empty() bool { return len(d.sync) == 0 && !d.forget }

type conn struct {
	net.Conn
	b *Broker

	// The request being read; used by kfake's reading goroutine alone.
	head [requestHead]byte
	have int    // bytes of head
	left int    // bytes of the frame not seen yet, once head is complete
	want bool   // the body is of interest
	body []byte // the frame after head, where it is of interest

	mu     sync.Mutex
	duties map[int32]duty // by correlation id
}

const requestHead = 4 + 2 + 2 + 4 // size, api key, version, correlation id

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.observe(p[:n])
	return n, err
}

// observe follows the framing of the requests in the bytes just read. It must
// be done with a request before kfake has its last byte, and it is: kfake sees
// what Read returns.
func (c *conn) observe(p []byte) {
	for len(p) > 0 {
		if c.have < requestHead {
			n := copy(c.head[c.have:], p)
			c.have += n
			p = p[n:]
			if c.have < requestHead {
				return
			}
			c.left = int(int32(binary.BigEndian.Uint32(c.head[:]))) - (requestHead - 4)
			switch kmsg.Key(c.key()) {
			case kmsg.Produce, kmsg.EndTxn, kmsg.DeleteTopics:
				c.want = true
			default:
				c.want = false
			}
			c.body = c.body[:0]
		}
		n := min(max(c.left, 0), len(p))
		if c.want {
			c.body = append(c.body, p[:n]...)
		}
		c.left -= n
		p = p[n:]
		if c.left <= 0 {
			if c.want {
				c.request()
			}
			c.have = 0
		}
	}
}

func (c *conn) key() int16 { return int16(binary.BigEndian.Uint16(c.head[4:])) }

// request notes the duties of a complete request. A request that cannot be
// parsed has none: kfake will not be able to parse it either.
func (c *conn) request() {
	if cap(c.body) > 4<<20 {
		defer func() { c.body = nil }() // an exceptional request does not hold its memory for ever
	}
	version := int16(binary.BigEndian.Uint16(c.head[6:]))
	correlation := int32(binary.BigEndian.Uint32(c.head[8:]))
	req := kmsg.RequestForKey(c.key())
	req.SetVersion(version)
	body, ok := skipRequestHeader(c.body, req.IsFlexible())
	if !ok {
		return
	}
	if err := req.ReadFrom(body); err != nil {
		return
	}
	var d duty
	switch req := req.(type) {
	case *kmsg.ProduceRequest:
		d.sync = c.b.produced(req)
		d.refuse = withoutRecords(req)
	case *kmsg.EndTxnRequest:
		d.sync = c.b.syncer.transaction(req.ProducerID)
	case *kmsg.DeleteTopicsRequest:
		d.forget = true
	}
	if d.empty() {
		return
	}
	c.mu.Lock()
	c.duties[correlation] = d
	c.mu.Unlock()
}

// skipRequestHeader drops the client id and the tagged fields of a request
// header (version 1 or 2), which stand between the correlation id and the body.
func skipRequestHeader(b []byte, flexible bool) ([]byte, bool) {
	if len(b) < 2 {
		return nil, false
	}
	n := max(int(int16(binary.BigEndian.Uint16(b))), 0) // -1 is the null string
	if len(b) < 2+n {
		return nil, false
	}
	b = b[2+n:]
	if !flexible {
		return b, true
	}
	tags, b, ok := uvarint(b)
	for ; ok && tags > 0; tags-- {
		var size uint64
		if _, b, ok = uvarint(b); !ok {
			break
		}
		if size, b, ok = uvarint(b); !ok || uint64(len(b)) < size {
			return nil, false
		}
		b = b[size:]
	}
	return b, ok
}

func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// produced lists the primary partitions that a produce request writes to, and
// remembers those of a transaction, whose end has to be synced as well. A
// request without acknowledgement has no answer to hold back.
func (b *Broker) produced(req *kmsg.ProduceRequest) []partitionKey {
	var keys []partitionKey
	for _, t := range req.Topics {
		if b.cfg.Derived(t.Topic) {
			continue
		}
		for _, p := range t.Partitions {
			key := partitionKey{t.Topic, p.Partition}
			keys = append(keys, key)
			if len(p.Records) >= batchHeader {
				if h := readHeader(p.Records); h.transactional() {
					b.syncer.addToTransaction(h.producerID, key)
				}
			}
		}
	}
	if req.Acks == 0 {
		return nil
	}
	return keys
}

// withoutRecords is what of a produce request an answer needs.
func withoutRecords(req *kmsg.ProduceRequest) *kmsg.ProduceRequest {
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			req.Topics[i].Partitions[j].Records = nil
		}
	}
	return req
}

// refusal is the answer to a produce request whose records are not durable. The
// error is one that clients do not try again: no later attempt will succeed.
func refusal(correlation int32, req *kmsg.ProduceRequest, cause error) []byte {
	message := cause.Error()
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition = p.Partition
			rp.ErrorCode = kerr.UnknownServerError.Code
			rp.ErrorMessage = &message
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(correlation))
	if resp.IsFlexible() {
		b = append(b, 0) // no tagged fields
	}
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// Write sends an answer, after what it promises has been done. Where that
// fails, a produce request is refused; for any other the connection is closed.
func (c *conn) Write(p []byte) (int, error) {
	if len(p) >= 8 {
		correlation := int32(binary.BigEndian.Uint32(p[4:]))
		c.mu.Lock()
		d := c.duties[correlation]
		delete(c.duties, correlation)
		c.mu.Unlock()
		if err := c.b.syncer.do(d); err != nil {
			if d.refuse == nil {
				return 0, err
			}
			if _, err := c.Conn.Write(refusal(correlation, d.refuse, err)); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}
