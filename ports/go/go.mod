module spa-knock.invalid/ports/go

go 1.19

// The lowest version that is tested. Later ones work, too; your module's own requirement decides.
require golang.org/x/crypto v0.4.0

require golang.org/x/sys v0.3.0 // indirect
