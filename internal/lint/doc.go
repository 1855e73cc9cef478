// Package lint keeps the rules of this repository that no other tool knows: who
// may import whom (etc/imports.yaml), that every package says what it is for,
// and what has no place in the source. All of it is in tests, so that go test
// finds a broken rule.
//
// It does not repeat what go vet and staticcheck find; "make lint" runs those.
package lint
