//go:build race

package e2e

// raced: the race detector makes everything five to ten times slower, so the
// longest test does less under it.
const raced = true
