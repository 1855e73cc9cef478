package schemas

import "embed"

// Domains holds the sample domain definitions: domains/*.yaml.
//
//go:embed domains/*.yaml
var Domains embed.FS
