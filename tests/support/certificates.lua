--- Certificates for a cluster that speaks TLS, made by openssl(1) in a folder.
local process = require "tests.support.process"

local certificates = {}

local MAKE = [[
set -e; cd "$1"
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
for ca in ca stranger; do openssl req -x509 $key -subj /CN=$ca -days 2 -keyout $ca.key -out $ca.crt; done
sign() {
  openssl req $key -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
  printf 'subjectAltName=%s' "$2" >san
  openssl ca -batch -notext -config ca.conf -in "$1.csr" -extfile san -startdate "$3" -enddate "$4" -out "$1.crt"
}
cat >ca.conf <<CONF
[ca]
default_ca = own
[own]
certificate = ca.crt
private_key = ca.key
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = names
[names]
commonName = supplied
CONF
: >index; echo 01 >serial
sign node DNS:node.test,IP:127.0.0.1 200101000000Z 491231000000Z
sign client DNS:client.test 200101000000Z 491231000000Z
sign late DNS:node.test,IP:127.0.0.1 200101000000Z 200102000000Z
openssl ec -in client.key -aes128 -passout pass:secret -out locked.key
]]

--- Two CAs, `ca` and `stranger`, which signs nothing; of the first `node` (node.test, 127.0.0.1), `client`, `late` (a node's,
--- expired), each { cert, key }; `locked`, the client's key under a password.
---@param folder string
---@return table paths
function certificates.make(folder)
  local own = process.make_folder(folder .. "/certificates")
  local status, text = process.run { "/bin/sh", "-c", MAKE, "sh", own }
  assert(status == 0, text)
  local function pair(name) return { cert = ("%s/%s.crt"):format(own, name), key = ("%s/%s.key"):format(own, name) } end
  return { folder = own, ca = own .. "/ca.crt", stranger = own .. "/stranger.crt", node = pair "node", client = pair "client",
    late = pair "late", locked = own .. "/locked.key" }
end

return certificates
