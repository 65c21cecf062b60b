#!/bin/sh
# Give Dagster its configuration, then become the command.
set -eu
cp /opt/em_platform/docker/dagster.yaml "$DAGSTER_HOME/dagster.yaml"
exec "$@"
