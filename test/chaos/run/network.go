package run

import (
	"context"
	"fmt"
	"strings"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// network stands between the instances and each broker.
type network struct {
	server  *toxiproxy.ApiServer
	proxies []*toxiproxy.Proxy
}

func newNetwork() *network {
	return &network{server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())}
}

// advertise puts a proxy before a broker.
func (n *network) advertise(broker int, addr string) (string, error) {
	p := toxiproxy.NewProxy(n.server, fmt.Sprintf("broker%d", broker), "127.0.0.1:0", addr)
	if err := p.Start(); err != nil {
		return "", err
	}
	n.proxies = append(n.proxies, p)
	return p.Listen, nil
}

// toxic does something to all connections of a proxy, both ways if the stream
// is empty; attributes are those of Toxiproxy, as JSON.
func (n *network) toxic(broker int, kind, stream, attributes string) error {
	streams := []string{stream}
	if stream == "" {
		streams = []string{"upstream", "downstream"}
	}
	for _, s := range streams {
		text := fmt.Sprintf(`{"type":%q,"stream":%q,"attributes":{%s}}`, kind, s, attributes)
		if _, err := n.proxies[broker].Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
			return fmt.Errorf("toxic %s: %w", text, err)
		}
	}
	return nil
}

// cut refuses connections to a broker, and ends those that there are.
func (n *network) cut(broker int) { n.proxies[broker].Stop() }

// heal makes the network a good one again.
func (n *network) heal() error {
	for _, p := range n.proxies {
		p.Toxics.ResetToxics(context.Background())
		if err := p.Start(); err != nil && err != toxiproxy.ErrProxyAlreadyStarted {
			return err
		}
	}
	return nil
}

func (n *network) close() {
	for _, p := range n.proxies {
		p.Stop()
	}
}
