// Package api will hold the node's status and control over HTTP, its metrics
// and the dashboard page. It has no code yet.
package api
