# shellcheck shell=bash
# shellcheck disable=SC2154 # tmp is set in run
# Builds the Dockerfile as it is and starts the image; the docker stage of run,
# whose shell this is (tmp, skip, have, install and may_install are there).
#
# Where no engine runs, CI starts one of its own. It is told to leave the
# network of the machine alone (no bridge, no firewall rules, no forwarding), so
# that nothing has to be put back: building uses the host's network, running
# none.

base=../shared/tools/docker-base/docker-base.sh
engine= # pid of the engine started here
image=minerd:ci
volume=minerd-ci-$$

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

docker_cleanup() {
	set +e
	docker volume rm -f "$volume" >/dev/null 2>&1
	[ -z "$engine" ] && return
	kill "$engine" 2>/dev/null
	wait "$engine" 2>/dev/null
	umount "$tmp"/docker/exec/netns/* 2>/dev/null # left by containers on the host's network
}

if ! answers; then
	may_install || skip "no Docker engine answers; start one to run this stage"
	[ -e "$base" ] || skip "no Docker engine runs, and one started here could not make base images ($base is absent)"
	if ! have dockerd || ! have debootstrap; then install docker.io debootstrap; fi
	mkdir "$tmp/docker"
	export DOCKER_HOST=unix://$tmp/docker/sock
	dockerd --data-root "$tmp/docker/data" --exec-root "$tmp/docker/exec" --pidfile "$tmp/docker/pid" \
		--host "$DOCKER_HOST" --bridge=none --iptables=false --ip-forward=false --ip-masq=false \
		>"$tmp/dockerd.log" 2>&1 &
	engine=$!
	trap docker_cleanup EXIT
	for _ in {1..120}; do
		answers && break
		kill -0 $engine 2>/dev/null || break
		sleep 0.5
	done
	answers || {
		tail "$tmp/dockerd.log"
		kill -0 $engine 2>/dev/null && exit 1
		skip "a Docker engine cannot start on this machine"
	}
	bash "$base" "$tmp/docker/base"
else
	trap docker_cleanup EXIT
fi

# A client from 23.0 on has BuildKit only as the plugin buildx; an older one
# has it built in, but only uses it when told to.
client=$(docker version --format '{{.Client.Version}}')
if docker buildx version >/dev/null 2>&1 || [ "${client%%.*}" -lt 23 ]; then export DOCKER_BUILDKIT=1; else export DOCKER_BUILDKIT=0; fi
echo "docker: client $client, engine $(docker version --format '{{.Server.Version}}'), DOCKER_BUILDKIT=$DOCKER_BUILDKIT"

version=$(git describe --tags --always --dirty 2>/dev/null || echo dev)
docker build --network host --build-arg VERSION="$version" -t "$image" .
docker image inspect --format 'docker: image of {{.Size}} bytes, user {{.Config.User}}' "$image"

docker run --rm --network none "$image" version | tee "$tmp/version"
grep -qF "$version" "$tmp/version" || { echo "the image does not say version $version"; exit 1; }
# A new named volume must be writable by the image's user.
docker run --rm --network none -v "$volume:/data" "$image" init --data-dir /data
