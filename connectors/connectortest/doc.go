// Package connectortest is the conformance suite that every kind of connector
// passes, and where its tests find the shared data.
//
// It does not test what a kind means by its settings; its own tests do.
package connectortest
