package api

// Paths gives the templates of the router, for the test that compares them
// with the OpenAPI document.
func Paths(a *API) []string { return a.walk() }
